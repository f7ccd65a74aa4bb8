//! The table as a whole.
use super::*;

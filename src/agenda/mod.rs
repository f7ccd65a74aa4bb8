//! Owns what is due and who gets it.

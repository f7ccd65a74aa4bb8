//! Owns the forms in which events leave an instance and come into one: lines of `export` and `import`, and what a backup
//! consists of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Filters, Show, Text, Verification};
use crate::{clock::Timestamp, event::Seq};

/// The version of an exported line that is written today.
pub const EXPORT_FORMAT: u32 = 1;

/// One line of `export`: an event with its deliveries, attempts and body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exported {
    /// [`EXPORT_FORMAT`].
    pub format: u32,
    /// As `show --json` has it.
    #[serde(flatten)]
    pub show: Show,
    /// What its path captured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captures: Vec<(String, String)>,
    /// The trusted proxy that handed it to us. Absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ExportedProxy>,
    /// How many relays it came through before. Absent if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hops: Option<u32>,
    /// As received.
    pub body: Text,
}

/// A trusted proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportedProxy {
    /// Its address.
    pub address: String,
    /// How it reached us: `http` or `https`.
    pub scheme: String,
}

/// The question of `stagepost export`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Export {
    /// Which events.
    pub filters: Filters,
    /// Credentials are left out: such lines can't be imported.
    pub hide_credentials: bool,
}

/// One line of the answer to [`Export`].
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "almost all of them are events, and none waits anywhere")]
pub enum ExportReply {
    /// An event.
    Event(Exported),
    /// Something the operator must know: damage, an expression that failed.
    Note(String),
    /// The answer ends here because of this.
    Failed(String),
}

/// What of an exported line is imported. Everything else in it is history.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "as in Exported")]
pub struct Importing {
    pub format: u32,
    pub id: String,
    pub received_at: Timestamp,
    pub source: String,
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    pub method: String,
    pub scheme: String,
    pub path: String,
    pub query: Option<String>,
    pub headers: Vec<(String, Text)>,
    pub client: String,
    pub verification: Verification,
    #[serde(default)]
    pub hidden: Vec<String>,
    #[serde(default)]
    pub captures: Vec<(String, String)>,
    #[serde(default)]
    pub proxy: Option<ExportedProxy>,
    #[serde(default)]
    pub parent: Option<String>,
    #[serde(default)]
    pub item: Option<u32>,
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub schema_version: Option<String>,
    #[serde(default)]
    pub violation: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub hops: Option<u32>,
    pub body: Text,
}

/// What became of some imported lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imported {
    /// Events that are stored now.
    pub imported: u64,
    /// Events that were stored before.
    pub known: u64,
    /// Lines that are no events, or can't be taken.
    pub refused: u64,
    /// Why, for the first 20: which line of those that were sent, from 1, and the reason.
    pub reasons: Vec<(u64, String)>,
}

/// The moment of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackupAsk {
    /// Where it goes, for the record alone: whoever asks does the copying.
    #[serde(default)]
    pub to: Option<String>,
}

/// What a backup consists of at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackupPoint {
    /// The data directory, as the instance calls it.
    pub data: String,
    /// Everything before this number stands in the segments.
    pub end: Seq,
    /// Their files in `log/`, oldest first. They do not change any more.
    pub segments: Vec<String>,
}

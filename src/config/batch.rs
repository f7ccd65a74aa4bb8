//! Owns the keys of a source that look into bodies: `split`, `items`, `max_items`, `schema`.

use std::{fs, io::Read as _, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::{
    reader::{Section, quoted},
    server::header_name,
    tree::Value,
};
use crate::{
    preset::{KeyPlan, Preset},
    routing::{BATCH_ITEMS_MAX, ItemForm, ItemRule, Items, OnViolation, SchemaRule, SplitRule, item_path},
    schema::{SCHEMA_BYTES_MAX, Schema},
};

/// The most items of a batch, unless `max_items` says otherwise.
const ITEMS_DEFAULT: u64 = 1_000;

/// `split`, `items` and `max_items`.
pub(super) fn split(section: &Section<'_>, preset: Option<&Preset>) -> Option<SplitRule> {
    let form = match section.value("split") {
        Some(Value::Text(word)) if word == "wrap" => Some(ItemForm::Wrapped),
        Some(Value::Text(_)) => {
            section.problem("split", "takes true (an event for each item of a batch), \"wrap\" or false");
            None
        }
        _ => section.flag("split", false).then_some(ItemForm::Bare),
    };
    let written = section.text("items").map(|text| section.accept("items", item_path(text)));
    let Some(form) = form else {
        // The key is known although it does nothing.
        let _unused = section.value("max_items");
        for key in ["items", "max_items"].into_iter().filter(|key| section.has(key)) {
            section.problem(key, "has no effect without split = true or split = \"wrap\"");
        }
        return None;
    };
    let max_items = section.count("max_items", ITEMS_DEFAULT, 1..=BATCH_ITEMS_MAX as u64);
    if form == ItemForm::Wrapped {
        section.print("split", "\"wrap\"");
    }
    let own = preset.and_then(|preset| preset.items).map(|plan| plan.rule());
    let items = match (written, own, preset) {
        (Some(array), own, _) => {
            let array = array?;
            section.print("items", &quoted(&format!(".{array}")));
            let own = own.filter(|own| own.array == array);
            Items::Json(own.unwrap_or(ItemRule { array, key: Vec::new(), kind: None }))
        }
        (None, Some(own), _) => {
            section.note(&format!("the preset's items: .{}", own.array));
            Items::Json(own)
        }
        (None, None, Some(preset)) if preset.dedupe == Some(KeyPlan::Notifications) => Items::Notifications,
        (None, None, Some(preset)) => {
            let message = format!(
                "{} sends no batches that are known; say where the items stand: items = \".data\"",
                preset.title
            );
            section.problem("split", message);
            return None;
        }
        (None, None, None) => {
            section.note("items: the body itself is the array");
            Items::Json(ItemRule { array: "[]".into(), key: Vec::new(), kind: None })
        }
    };
    Some(SplitRule { items, form, max_items: usize::try_from(max_items).unwrap_or(BATCH_ITEMS_MAX) })
}

/// `schema`.
pub(super) fn schema(source: &Section<'_>) -> Option<SchemaRule> {
    let section = source.optional_section("schema")?;
    let choices = [("tag", OnViolation::Tag), ("quarantine", OnViolation::Quarantine), ("reject", OnViolation::Reject)];
    let on_violation = section.choice("on_violation", "tag", &choices);
    let version_header = match section.text("version_header") {
        Some(name) => header_name(&section, "version_header", name),
        None => None,
    };
    let schema = match section.has("file") {
        true => compiled(&section).map(Some),
        false if section.has("version_header") => Some(None),
        false => {
            section.problem("file", "is missing; name a file with a JSON Schema, such as \"invoice.schema.json\"");
            None
        }
    };
    section.finish();
    Some(SchemaRule { schema: schema?, on_violation: on_violation?, version_header })
}

fn compiled(section: &Section<'_>) -> Option<Arc<Schema>> {
    let path = section.path("file")?;
    section.cx.watch(&path);
    let mut text = Vec::new();
    let read = fs::File::open(&path).and_then(|file| file.take(SCHEMA_BYTES_MAX + 1).read_to_end(&mut text));
    section.accept("file", read.map_err(|error| format!("{} can't be read: {error}", path.display())))?;
    if text.len() as u64 > SCHEMA_BYTES_MAX {
        section.problem("file", format!("{} has more than 1 MiB, which is no schema's size", path.display()));
        return None;
    }
    // A changed schema is a changed configuration.
    section.note(&format!("sha256 {}", hex::encode(Sha256::digest(&text))));
    let compiled = Schema::compile(&text).map_err(|error| format!("{} {error}", path.display()));
    section.accept("file", compiled).map(Arc::new)
}

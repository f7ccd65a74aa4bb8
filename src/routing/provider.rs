//! Owns what a source knows about its provider beyond the signature: which challenge it answers, where the items of a
//! batch stand, how its events are numbered.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::KeySelector;

/// The most items of one batch; a larger one has neither keys nor types of its items.
pub const BATCH_ITEMS_MAX: usize = 10_000;

/// How the events of a source are numbered.
#[derive(Clone, Debug)]
pub struct Numbering {
    /// Where the number stands.
    pub key: KeySelector,
    /// Whether the next event has the next number, so that a gap is a loss; else numbers only grow.
    pub consecutive: bool,
}

/// Where the items of a batch stand in a JSON body, and what they are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemRule {
    /// The way to the items: names of members with dots between them, `[]` for each element of an array. `[]`,
    /// `value[]`, `entry[].changes[]`.
    pub array: Box<str>,
    /// The ways to what makes an item's key, inside the item; all must be there. Empty: items have no key.
    pub key: Vec<Box<str>>,
    /// The way to an item's type.
    pub kind: Option<Box<str>>,
}

/// Why a body gives no items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoItems {
    /// It is no such batch, or has no items.
    NoBatch,
    /// It has more than were asked for.
    TooMany,
}

impl ItemRule {
    /// The items as they stand in the body, in order; None if the body is no such batch, has no items, or has more than
    /// [`BATCH_ITEMS_MAX`].
    #[must_use]
    pub fn items<'b>(&self, body: &'b [u8]) -> Option<Vec<&'b RawValue>> {
        self.items_up_to(body, BATCH_ITEMS_MAX).ok()
    }

    /// The items as they stand in the body, in order: at least one, at most `most`.
    ///
    /// # Errors
    /// [`NoItems`].
    pub fn items_up_to<'b>(&self, body: &'b [u8], most: usize) -> Result<Vec<&'b RawValue>, NoItems> {
        let whole: &RawValue = serde_json::from_slice(body).map_err(|_| NoItems::NoBatch)?;
        let mut found = vec![whole];
        for step in steps(&self.array) {
            let mut next = Vec::new();
            for raw in found {
                match step {
                    Step::Each => {
                        let elements: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| NoItems::NoBatch)?;
                        next.extend(elements);
                    }
                    // An element of a mixed batch may lack what others have.
                    Step::Name(name) => next.extend(member(raw, name)),
                }
                if next.len() > most {
                    return Err(NoItems::TooMany);
                }
            }
            found = next;
        }
        if found.is_empty() { Err(NoItems::NoBatch) } else { Ok(found) }
    }

    /// The same rule for one item of a batch that was split where `whole` says: what is left of the way to the items.
    /// None if the two ways part.
    #[must_use]
    pub fn inside(&self, whole: &Self) -> Option<Self> {
        let rest = self.array.strip_prefix(&*whole.array)?;
        let array = if rest.is_empty() { rest } else { rest.strip_prefix('.')? };
        Some(Self { array: array.into(), ..self.clone() })
    }

    /// An item's key: its parts as JSON texts, so that two different lists never look alike. None if a part is missing,
    /// null, or no scalar, or if items have no key.
    #[must_use]
    pub fn key_of(&self, item: &RawValue) -> Option<String> {
        if self.key.is_empty() {
            return None;
        }
        let parts = self.key.iter().map(|path| scalar(item, path)).collect::<Option<Vec<_>>>()?;
        Some(parts.join(","))
    }

    /// An item's type.
    #[must_use]
    pub fn type_of(&self, item: &RawValue) -> Option<String> {
        let text = scalar(item, self.kind.as_deref()?)?;
        match text.as_bytes().first()? {
            b'"' => serde_json::from_str::<String>(text).ok().filter(|text| !text.is_empty()),
            _ => Some(text.to_owned()),
        }
    }

    /// The keys of all items as one, whatever their order; None if any item lacks its key.
    #[must_use]
    pub fn keys_of(&self, body: &[u8]) -> Option<String> {
        let mut keys = self.items(body)?.into_iter().map(|item| self.key_of(item)).collect::<Option<Vec<String>>>()?;
        keys.sort_unstable();
        keys.dedup();
        Some(keys.join("\n"))
    }

    /// The type that all items have in common, else `batch`; None if the body is no batch or no item has a type.
    #[must_use]
    pub fn types_of(&self, body: &[u8]) -> Option<String> {
        let items = self.items(body)?;
        let mut types = items.into_iter().map(|item| self.type_of(item));
        let first = types.next()?;
        match types.all(|other| other == first) {
            true => first,
            false => Some(BATCH.to_owned()),
        }
    }
}

/// The type of a batch whose items have different ones.
pub const BATCH: &str = "batch";

impl KeySelector {
    /// A rule that is shared by all that ask it.
    #[must_use]
    pub fn items(rule: ItemRule) -> Self {
        Self::Items(Arc::new(rule))
    }
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Name(&'p str),
    Each,
}

fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split('.').flat_map(|part| {
        let name = part.trim_end_matches("[]");
        let each = (part.len() - name.len()) / 2;
        (!name.is_empty()).then_some(Step::Name(name)).into_iter().chain(std::iter::repeat_n(Step::Each, each))
    })
}

/// The last member of this name, as everybody reads JSON; None if there is none or the value is no object.
fn member<'b>(raw: &'b RawValue, name: &str) -> Option<&'b RawValue> {
    struct Last<'n>(&'n str);

    impl<'de> serde::de::Visitor<'de> for Last<'_> {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(key) = members.next_key::<std::borrow::Cow<'_, str>>()? {
                let value: &RawValue = members.next_value()?;
                if key == self.0 {
                    found = Some(value);
                }
            }
            Ok(found)
        }
    }

    let mut json = serde_json::Deserializer::from_str(raw.get());
    serde::de::Deserializer::deserialize_map(&mut json, Last(name)).ok()?
}

/// The JSON text of a string that is not empty, a number or a boolean.
fn scalar<'b>(item: &'b RawValue, path: &str) -> Option<&'b str> {
    let found = path.split('.').try_fold(item, |raw, name| member(raw, name))?.get();
    match found.as_bytes().first()? {
        b'[' | b'{' | b'n' => None,
        _ => Some(found).filter(|text| *text != "\"\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(array: &str, key: &[&str], kind: Option<&str>) -> ItemRule {
        ItemRule {
            array: array.into(),
            key: key.iter().map(|path| (*path).into()).collect(),
            kind: kind.map(Into::into),
        }
    }

    fn items(array: &str, body: &str) -> Option<Vec<String>> {
        let items = rule(array, &[], None).items(body.as_bytes())?;
        Some(items.into_iter().map(|item| item.get().to_owned()).collect())
    }

    #[test]
    fn items_are_found_with_their_exact_bytes() {
        let found = |array, body| items(array, body).unwrap();
        assert_eq!(found("[]", r#" [ {"a" : 1}, 2 ,"x"]"#), [r#"{"a" : 1}"#, "2", r#""x""#]);
        assert_eq!(found("value[]", r#"{"value":[1.50,{}]}"#), ["1.50", "{}"]);
        assert_eq!(found("data.events[]", r#"{"data":{"x":0,"events":[1]}}"#), ["1"]);
        assert_eq!(found("e[].c[]", r#"{"e":[{"c":[1,2]},{"other":[]},{"c":[3]}]}"#), ["1", "2", "3"]);
        for (array, body) in [
            ("[]", ""),
            ("[]", "{}"),
            ("[]", "[]"),
            ("[]", "[1"),
            ("[]", "[1] 2"),
            ("value[]", "[]"),
            ("value[]", "{}"),
            ("value[]", r#"{"value":{}}"#),
        ] {
            assert_eq!(items(array, body), None, "{array} in {body}");
        }
        let many = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        assert_eq!(items("[]", &many(BATCH_ITEMS_MAX)).unwrap().len(), BATCH_ITEMS_MAX);
        assert_eq!(items("[]", &many(BATCH_ITEMS_MAX + 1)), None);
    }

    #[test]
    fn what_is_left_of_the_way_leads_on_inside_an_item() {
        let whole = rule("entry[]", &[], None);
        let deeper = rule("entry[].changes[]", &["id"], Some("field"));
        let inside = deeper.inside(&whole).unwrap();
        assert_eq!(&*inside.array, "changes[]");
        assert_eq!(inside.keys_of(br#"{"changes":[{"id":1},{"id":2}]}"#).as_deref(), Some("1\n2"));
        let same = rule("[]", &["id"], Some("event")).inside(&rule("[]", &[], None)).unwrap();
        assert_eq!(same.keys_of(br#"{"id":7}"#).as_deref(), Some("7"));
        assert_eq!(same.types_of(br#"{"event":"open"}"#).as_deref(), Some("open"));
        assert_eq!(rule("entries[]", &[], None).inside(&rule("entry[]", &[], None)), None);
        assert_eq!(whole.inside(&deeper), None);
        assert_eq!(whole.items_up_to(br#"{"entry":[1,2,3]}"#, 2).unwrap_err(), NoItems::TooMany);
        assert_eq!(whole.items_up_to(b"{}", 2).unwrap_err(), NoItems::NoBatch);
    }

    #[test]
    fn the_keys_of_a_batch_don_t_depend_on_their_order_and_never_look_alike() {
        let rule = rule("[]", &["a", "b.c"], None);
        let keys = |body: &str| rule.keys_of(body.as_bytes());
        let one = keys(r#"[{"a":1,"b":{"c":"x"}},{"a":2,"b":{"c":true}}]"#);
        assert_eq!(one.as_deref(), Some("1,\"x\"\n2,true"));
        assert_eq!(one, keys(r#"[{"b":{"c":true},"a":2},{"a":1,"b":{"c":"x"},"z":0}]"#));
        assert_ne!(keys(r#"[{"a":"1","b":{"c":1}}]"#), keys(r#"[{"a":1,"b":{"c":1}}]"#));
        assert_ne!(keys(r#"[{"a":"1,","b":{"c":1}}]"#), keys(r#"[{"a":"1","b":{"c":",1"}}]"#));
        for body in
            [r#"[{"a":1}]"#, r#"[{"a":1,"b":{"c":null}}]"#, r#"[{"a":"","b":{"c":1}}]"#, r#"[{"a":[],"b":{"c":1}}]"#]
        {
            assert_eq!(keys(body), None, "{body}");
        }
    }

    #[test]
    fn a_batch_has_the_type_that_all_its_items_have_or_is_called_batch() {
        let rule = rule("[]", &[], Some("event"));
        let types = |body: &str| rule.types_of(body.as_bytes());
        assert_eq!(types(r#"[{"event":"open"},{"event":"open"}]"#).as_deref(), Some("open"));
        assert_eq!(types(r#"[{"event":"open"},{"event":"click"}]"#).as_deref(), Some("batch"));
        assert_eq!(types(r#"[{"event":"open"},{}]"#).as_deref(), Some("batch"));
        assert_eq!(types(r#"[{}]"#), None);
        assert_eq!(types("{}"), None);
    }
}

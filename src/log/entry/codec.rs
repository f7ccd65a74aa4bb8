//! Owns the letters that payloads are written in: varints, length-prefixed texts and byte strings, options.
//!
//! Promises that reading damaged bytes gives `None`, never a panic and never more than is there.

use bytes::Bytes;

use super::VERSION;
use crate::clock::Timestamp;

/// Appends varints, texts and byte strings.
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(super) fn pair(&mut self, first: u64, second: u64) {
        self.number(first);
        self.number(second);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

/// Reads what [`Writer`] wrote; every step gives None on damaged input. Slices share the input's memory.
pub(crate) struct Reader(pub(crate) Bytes);

impl Reader {
    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for (index, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                let _read = self.0.split_to(index + 1);
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn version(&mut self) -> Option<()> {
        (self.number()? == VERSION).then_some(())
    }

    pub(crate) fn time(&mut self) -> Option<Timestamp> {
        self.number().map(Timestamp::from_millis)
    }

    /// A count of things of at least one byte each: never more than there are bytes left.
    pub(crate) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    pub(crate) fn slice(&mut self) -> Option<Bytes> {
        let length = self.count()?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Option<Box<str>> {
        let slice = self.slice()?;
        std::str::from_utf8(&slice).ok().map(Into::into)
    }

    pub(crate) fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.take(1)?.first()? {
            0 => Some(None),
            _ => read(self).map(Some),
        }
    }
}

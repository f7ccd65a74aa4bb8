//! Owns the look at HTTP/2 frames as they are read: only whether a header block has begun and not ended.
//!
//! hyper gives a header block no time limit of its own and shows none of its frames; HEADERS and CONTINUATION are told
//! apart from the rest by the nine bytes before each (RFC 9113, sections 4.1, 6.2 and 6.10). Nothing is copied, decoded
//! or judged: frames that are wrong are hyper's to refuse.

/// The connection preface (RFC 9113, section 3.4), in bytes.
const PREFACE_BYTES: usize = 24;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Where a stream of frames is.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes until the next frame begins.
    skip: usize,
    head: [u8; 9],
    /// Bytes of `head` that have come.
    filled: usize,
    /// A header block has begun.
    block: bool,
    /// The frame that is being skipped ends the header block.
    ends: bool,
}

impl Frames {
    /// At the beginning of a connection, before the preface.
    pub(super) const fn new() -> Self {
        Self { skip: PREFACE_BYTES, head: [0; 9], filled: 0, block: false, ends: false }
    }

    /// Looks at the next bytes. True if they end inside a header block or inside the nine bytes before a frame.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                bytes = bytes.get(count..).unwrap_or_default();
            } else {
                let count = (self.head.len() - self.filled).min(bytes.len());
                let (now, rest) = bytes.split_at_checked(count).unwrap_or_default();
                if let Some(room) = self.head.get_mut(self.filled..self.filled + count) {
                    room.copy_from_slice(now);
                }
                self.filled += count;
                bytes = rest;
                if self.filled == self.head.len() {
                    self.begin();
                }
            }
            if self.skip == 0 && self.ends {
                (self.block, self.ends) = (false, false);
            }
        }
        self.block || self.filled > 0
    }

    fn begin(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.filled = 0;
        if matches!(kind, HEADERS | CONTINUATION) {
            self.block = true;
            self.ends = flags & END_HEADERS != 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        frame.resize(9 + length, 0);
        frame
    }

    #[test]
    fn a_header_block_is_open_from_its_first_byte_to_the_end_of_its_last_frame_however_the_bytes_come() {
        let wire = [
            vec![b'P'; PREFACE_BYTES],
            frame(4, 0, 12),
            frame(HEADERS, 0, 5),
            frame(CONTINUATION, 0, 0),
            frame(CONTINUATION, END_HEADERS, 300),
            frame(0, END_HEADERS, 20),
            frame(HEADERS, END_HEADERS, 0),
        ];
        let whole = [false, false, true, true, false, false, false];
        let mut frames = Frames::new();
        for (bytes, open) in wire.iter().zip(whole) {
            assert_eq!(frames.read(bytes), open, "{bytes:?}");
        }
        let mut frames = Frames::new();
        for (index, (bytes, open)) in wire.iter().zip(whole).enumerate() {
            let last = bytes.len() - 1;
            for (at, byte) in bytes.iter().enumerate() {
                let inside = index > 0 && (at < 8 || matches!(index, 2..=4)) && at < last;
                assert_eq!(frames.read(&[*byte]), if at == last { open } else { inside }, "frame {index}, byte {at}");
            }
        }
    }
}

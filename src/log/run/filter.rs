//! Owns the filters of a run: they say "surely absent" without a read, and are wrong once in 65,536 absent keys.
//!
//! One binary fuse filter (Graf, Lemire 2022; the crate `xorf`) for every stretch of at most 524,288 records, so
//! that building one takes less than 20 MB however large the run is. A filter that can't be built is left out; its
//! stretch is then read for every look-up, which is slow and right.
//!
//! ```text
//! filters = count u32 (0: none, and nothing follows), blocks of each u32, filter*
//! filter  = length u32 (0: none), seed u64, segment_length u32, segment_count_length u32, length × u16
//! ```

use std::{
    io::{self, Write},
    ops::Range,
};

use xorf::{BinaryFuse16, Descriptor, Filter};

use super::{Checked, Shape};

/// The most records one filter covers; few in tests, so that small runs have several.
const STRETCH_RECORDS: usize = if cfg!(test) { 1_000 } else { 512 * 1024 };

/// The filters of a run, one for each stretch of blocks.
#[derive(Debug)]
pub(super) struct Filters {
    blocks_each: usize,
    stretches: Vec<Option<BinaryFuse16>>,
}

/// Collects keys and makes filters of them, stretch by stretch.
pub(super) struct Builder {
    records_each: usize,
    filters: Filters,
    keys: Vec<u64>,
    pending: usize,
}

impl Builder {
    pub(super) fn new(shape: Shape) -> Self {
        let blocks_each = blocks_each(shape);
        let filters = Filters { blocks_each, stretches: Vec::new() };
        Self { records_each: blocks_each * shape.records_in_block, filters, keys: Vec::new(), pending: 0 }
    }

    pub(super) fn add(&mut self, key: u128) {
        self.keys.push(fold(key));
        self.pending += 1;
        if self.pending == self.records_each {
            self.close();
        }
    }

    fn close(&mut self) {
        // Different keys may fold to the same number, and the filter wants each only once.
        self.keys.sort_unstable();
        self.keys.dedup();
        self.filters.stretches.push(BinaryFuse16::try_from_iterator(self.keys.iter().copied()).ok());
        self.keys.clear();
        self.pending = 0;
    }

    pub(super) fn finish(mut self) -> Filters {
        if self.pending > 0 {
            self.close();
        }
        self.filters
    }
}

impl Filters {
    /// The blocks that may hold this key; None if it is surely absent.
    pub(super) fn candidates(&self, key: u128, firsts: &[u128]) -> Option<Range<usize>> {
        let (mut low, mut high) = (0, self.stretches.len());
        while low < high {
            let middle = low.midpoint(high);
            if firsts.get(middle * self.blocks_each).is_some_and(|first| *first <= key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let stretch = low.checked_sub(1)?;
        if let Some(filter) = self.stretches.get(stretch)?
            && !filter.contains(&fold(key))
        {
            return None;
        }
        let start = stretch * self.blocks_each;
        Some(start..(start + self.blocks_each).min(firsts.len()))
    }

    pub(super) fn write(filters: Option<&Self>, out: &mut impl Write) -> io::Result<()> {
        let stretches = filters.map_or(&[][..], |filters| &filters.stretches);
        out.write_all(&length(stretches.len())?)?;
        if let Some(filters) = filters.filter(|filters| !filters.stretches.is_empty()) {
            out.write_all(&length(filters.blocks_each)?)?;
        }
        for filter in stretches {
            let Some(filter) = filter else {
                out.write_all(&length(0)?)?;
                continue;
            };
            out.write_all(&length(filter.fingerprints.len())?)?;
            out.write_all(&filter.descriptor.seed.to_le_bytes())?;
            out.write_all(&filter.descriptor.segment_length.to_le_bytes())?;
            out.write_all(&filter.descriptor.segment_count_length.to_le_bytes())?;
            let bytes: Vec<u8> = filter.fingerprints.iter().flat_map(|print| print.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Reads what [`Self::write`] wrote. What could make a look-up leave its bounds is an end of file: the caller
    /// compares the checksum only afterwards.
    pub(super) fn read(from: &mut Checked<'_>, blocks: u64) -> io::Result<Option<Self>> {
        let wrong = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let count = from.u32()?;
        if count == 0 {
            return Ok(None);
        }
        let blocks_each = from.u32()?;
        if blocks_each == 0 || u64::from(count) != blocks.div_ceil(u64::from(blocks_each)) {
            return Err(wrong());
        }
        let mut stretches = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let length = from.u32()? as usize;
            if length == 0 {
                stretches.push(None);
                continue;
            }
            let (seed, segment_length, segment_count_length) = (from.u64()?, from.u32()?, from.u32()?);
            let descriptor = Descriptor {
                seed,
                segment_length,
                segment_length_mask: segment_length.wrapping_sub(1),
                segment_count_length,
            };
            let needed = u64::from(segment_count_length) + 2 * u64::from(segment_length);
            let aligned = segment_length.is_power_of_two() && segment_count_length.is_multiple_of(segment_length);
            if !aligned || needed > length as u64 {
                return Err(wrong());
            }
            let bytes = from.slice(length.checked_mul(2).ok_or_else(wrong)?)?;
            let fingerprints = bytes.as_chunks().0.iter().map(|print| u16::from_le_bytes(*print)).collect();
            stretches.push(Some(BinaryFuse16 { descriptor, fingerprints }));
        }
        Ok(Some(Self { blocks_each: blocks_each as usize, stretches }))
    }
}

fn blocks_each(shape: Shape) -> usize {
    (STRETCH_RECORDS / shape.records_in_block).max(1)
}

/// Both halves of the key count, so that keys with a common half are told apart.
fn fold(key: u128) -> u64 {
    ((key >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (key as u64)
}

fn length(count: usize) -> io::Result<[u8; 4]> {
    u32::try_from(count).map(u32::to_le_bytes).map_err(io::Error::other)
}

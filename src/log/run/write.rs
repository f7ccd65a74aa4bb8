//! Owns the way a run comes into being: under a temporary name, synced, renamed, its directory synced.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{
    CRC_BYTES, FORMAT_VERSION, HEADER_MAGIC, KEY_BYTES, META_BYTES_MAX, PAGE, Run, RunError, Shape, TRAILER_MAGIC,
    block_crc,
    filter::{Builder, Filters},
};

const WRITE_BUFFER_BYTES: usize = 256 * 1024;

impl Run {
    /// Writes `path` with `.tmp` appended, syncs, renames it to `path` and syncs the directory. `records` come in
    /// strictly ascending order of their first 16 bytes, each `record_len` (16 to 65,536) bytes long; `meta` is at
    /// most 64 KiB. With `filter` most look-ups of absent keys need no read.
    ///
    /// # Errors
    /// [`RunError::Refused`] if a rule is broken, [`RunError::Io`], or the first error of `records`. There is no
    /// file at `path` then, or still the old one, and the temporary file is removed if it can be. Only if the sync of
    /// the directory or the opening failed the new file may be there: it is whole, and may be written again.
    pub fn write(
        path: &Path,
        record_len: usize,
        filter: bool,
        meta: &[u8],
        records: impl Iterator<Item = Result<impl AsRef<[u8]>, RunError>>,
    ) -> Result<Self, RunError> {
        let temporary = temporary(path);
        let written = write_file(&temporary, path, record_len, filter, meta, records)
            .and_then(|()| fs::rename(&temporary, path).map_err(RunError::io("renaming", path)));
        if let Err(error) = written {
            let _leftover = fs::remove_file(&temporary);
            return Err(error);
        }
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(RunError::io("syncing", path))?;
        Self::open(path)
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

fn write_file(
    temporary: &Path,
    path: &Path,
    record_len: usize,
    filter: bool,
    meta: &[u8],
    records: impl Iterator<Item = Result<impl AsRef<[u8]>, RunError>>,
) -> Result<(), RunError> {
    let refused = |what| RunError::refused(path, what);
    let shape = Shape::new(record_len).ok_or_else(|| refused("a record has 16 to 65,536 bytes"))?;
    if meta.len() > META_BYTES_MAX {
        return Err(refused("its meta is longer than 64 KiB"));
    }
    let file = File::create(temporary).map_err(RunError::io("creating", temporary))?;
    let mut out = BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
    write_header(&mut out, shape).map_err(RunError::io("writing", temporary))?;

    let mut blocks = Blocks {
        shape,
        block: Vec::with_capacity(shape.block_bytes),
        firsts: Vec::new(),
        filters: filter.then(|| Builder::new(shape)),
        count: 0,
    };
    let mut previous: Option<u128> = None;
    for record in records {
        let record = record?;
        let record = record.as_ref();
        let key = match record.first_chunk::<KEY_BYTES>() {
            Some(key) if record.len() == record_len => u128::from_be_bytes(*key),
            _ => return Err(refused("a record has the wrong length")),
        };
        if previous.is_some_and(|previous| previous >= key) {
            return Err(refused("its records don't ascend"));
        }
        previous = Some(key);
        blocks.add(key, record, &mut out).map_err(RunError::io("writing", temporary))?;
    }
    blocks
        .finish(meta, &mut out)
        .and_then(|()| out.into_inner().map_err(io::IntoInnerError::into_error))
        .and_then(|file| file.sync_all())
        .map_err(RunError::io("writing", temporary))
}

fn write_header(out: &mut impl Write, shape: Shape) -> io::Result<()> {
    let mut header = Vec::with_capacity(PAGE);
    header.extend_from_slice(HEADER_MAGIC);
    header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    header.extend_from_slice(&(shape.record_len as u32).to_le_bytes());
    header.resize(PAGE - CRC_BYTES, 0);
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    out.write_all(&header)
}

/// Packs records into blocks and remembers what the footer needs.
struct Blocks {
    shape: Shape,
    block: Vec<u8>,
    firsts: Vec<u8>,
    filters: Option<Builder>,
    count: u64,
}

impl Blocks {
    fn add(&mut self, key: u128, record: &[u8], out: &mut impl Write) -> io::Result<()> {
        if self.block.is_empty() {
            self.firsts.extend_from_slice(&key.to_be_bytes());
        }
        self.block.extend_from_slice(record);
        self.count += 1;
        if let Some(filters) = &mut self.filters {
            filters.add(key);
        }
        if self.block.len() == self.shape.records_in_block * self.shape.record_len { self.close(out) } else { Ok(()) }
    }

    fn close(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let number = self.firsts.len() / KEY_BYTES - 1;
        self.block.resize(self.shape.block_bytes - CRC_BYTES, 0);
        self.block.extend_from_slice(&block_crc(number, &self.block).to_le_bytes());
        out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }

    fn finish(mut self, meta: &[u8], out: &mut impl Write) -> io::Result<()> {
        self.close(out)?;
        let filters = self.filters.map(Builder::finish);
        let mut footer = Summed { out, crc: 0, bytes: 0 };
        footer.write_all(&self.count.to_le_bytes())?;
        footer.write_all(&(meta.len() as u32).to_le_bytes())?;
        footer.write_all(meta)?;
        footer.write_all(&self.firsts)?;
        Filters::write(filters.as_ref(), &mut footer)?;

        let mut trailer = Vec::with_capacity(super::TRAILER_BYTES);
        trailer.extend_from_slice(&footer.bytes.to_le_bytes());
        trailer.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        trailer.extend_from_slice(&footer.crc.to_le_bytes());
        trailer.extend_from_slice(&crc32c::crc32c(&trailer).to_le_bytes());
        trailer.extend_from_slice(TRAILER_MAGIC);
        footer.out.write_all(&trailer)
    }
}

/// Counts and sums up what passes through.
struct Summed<'a, W> {
    out: &'a mut W,
    crc: u32,
    bytes: u64,
}

impl<W: Write> Write for Summed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

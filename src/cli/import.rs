//! Owns `stagepost import`: lines of an export, to a running instance or into the directory of a stopped one.
//!
//! Promises bounded memory: lines go in pieces of [`PIECE_BYTES`], or one by one where they are larger.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _},
};

use bytes::Bytes;

use super::{
    Exit, Failure, Host, Importer, Terminal, args::ImportArgs, client::Client, instance::Instance, print::escaped,
};
use crate::admin::{LINE_BYTES_MAX, wire::Imported};

/// Lines that are sent at once, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// Reasons that are shown.
const SHOWN_MAX: usize = 20;

pub(super) fn import(args: &ImportArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let client = Client::new(&instance.socket)?;
    let path = if args.deliver { "/v1/import?deliver=true" } else { "/v1/import" };
    let mut stopped: Option<Box<dyn Importer>> = None;
    let mut file;
    let input: &mut dyn BufRead = if args.file.as_os_str() == "-" {
        &mut *terminal.input
    } else {
        let opened = File::open(&args.file);
        let failed = |error: std::io::Error| Failure::new(Exit::Io, format!("{}: {error}", args.file.display()));
        file = BufReader::new(opened.map_err(failed)?);
        &mut file
    };
    let mut told = Imported::default();
    let mut sent = 0;
    loop {
        let (piece, lines) = piece(input, sent)?;
        if piece.is_empty() {
            break;
        }
        let answered = match &stopped {
            Some(importer) => importer.import(args.deliver, &piece)?,
            None => match client.post_bytes(path, piece.clone()) {
                Err(why) if why.exit == Exit::NotRunning && sent == 0 => {
                    stopped.insert(instance.importer(host, why)?).import(args.deliver, &piece)?
                }
                answered => answered.map_err(|why| after(&told, why))?,
            },
        };
        told.imported += answered.imported;
        told.known += answered.known;
        told.refused += answered.refused;
        told.reasons.extend(answered.reasons.into_iter().map(|(line, why)| (sent + line, why)));
        told.reasons.truncate(SHOWN_MAX);
        sent += lines;
    }
    if args.json {
        let json = serde_json::to_string(&told).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
        writeln!(terminal.out, "{json}")?;
    } else {
        for (line, why) in &told.reasons {
            writeln!(terminal.err, "line {line}: {}", escaped(why))?;
        }
        let Imported { imported, known, refused, .. } = told;
        writeln!(terminal.out, "{imported} events imported, {known} known already, {refused} lines refused")?;
    }
    Ok(if told.refused > 0 { Exit::Partly } else { Exit::Done })
}

/// What was done before it failed is said: it stays.
fn after(told: &Imported, why: Failure) -> Failure {
    match told.imported {
        0 => why,
        done => {
            Failure::new(why.exit, format!("{}\n{done} events are imported; a repetition goes on there", why.message))
        }
    }
}

/// The next whole lines, and how many they are. Empty at the end.
fn piece(input: &mut dyn BufRead, before: u64) -> Result<(Bytes, u64), Failure> {
    let (mut piece, mut lines) = (Vec::new(), 0);
    while piece.len() < PIECE_BYTES {
        let begin = piece.len();
        let most = (LINE_BYTES_MAX - begin) as u64;
        if (&mut *input).take(most).read_until(b'\n', &mut piece)? == 0 {
            break;
        }
        lines += 1;
        if piece.last() != Some(&b'\n') && piece.len() >= LINE_BYTES_MAX {
            let line = before + lines;
            return Err(Failure::usage(format!("line {line} is longer than {LINE_BYTES_MAX} bytes: it is no export")));
        }
    }
    Ok((piece.into(), lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sent_whole_and_in_pieces() {
        let text = "x".repeat(PIECE_BYTES / 2 - 1) + "\n";
        let all = text.repeat(5) + "last";
        let mut input = all.as_bytes();
        let mut sizes = Vec::new();
        loop {
            let (bytes, lines) = piece(&mut input, 0).unwrap();
            if bytes.is_empty() {
                break;
            }
            sizes.push((bytes.len(), lines));
        }
        assert_eq!(sizes, [(PIECE_BYTES, 2), (PIECE_BYTES, 2), (PIECE_BYTES / 2 + 4, 2)]);
    }

    #[test]
    fn a_line_without_end_is_no_export() {
        let mut input = BufReader::new(std::io::repeat(b'x').take(LINE_BYTES_MAX as u64 + 5));
        let refused = piece(&mut input, 7).unwrap_err();
        assert!(refused.exit == Exit::Usage && refused.message.starts_with("line 8 "), "{refused}");
    }
}

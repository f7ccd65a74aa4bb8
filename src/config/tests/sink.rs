//! Owns the tests of upstreams that take several events at once, or that are files.

use std::time::Duration;

use super::*;
use crate::routing::{BatchFormat, Compression, Content, Upstream};

const HEAD: &str = "[[listen]]\naddress = '127.0.0.1:0'\n[source.a]\npath = '/a'\nto = ['u']\n[upstream.u]\n";

fn upstream(directory: &Directory) -> std::sync::Arc<Upstream> {
    let loaded = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    loaded.table.upstreams["u"].clone()
}

fn problems(lines: &str) -> Vec<String> {
    let directory = Directory::with(&format!("{HEAD}{lines}"));
    let problems = directory.load().err().unwrap();
    directory.messages(&problems.0)
}

#[test]
fn a_batch_has_defaults_and_without_the_key_there_is_none() {
    assert_eq!(upstream(&Directory::with(&format!("{HEAD}url = 'http://x'\n"))).batch, None);
    let batch =
        upstream(&Directory::with(&format!("{HEAD}url = 'http://x'\nbatch = {{ format = 'array' }}\n"))).batch.clone();
    let batch = batch.unwrap();
    assert_eq!((batch.max_items, batch.max_bytes, batch.max_wait), (100, 1 << 20, Duration::from_secs(1)));
    assert_eq!(batch.format, BatchFormat::Array);
}

#[test]
fn a_file_has_one_writer_and_a_relative_path_starts_at_the_configuration() {
    let directory = Directory::with(&format!(
        "{HEAD}kind = 'file'\npath = 'out/e-{{time}}.zst'\ncompression = 'zstd'\ncontent = 'body'\n\
         rotate = {{ size = '1MiB', every = '5m' }}\n"
    ));
    directory.write("out/other", "");
    let upstream = upstream(&directory);
    let Target::File(policy) = &upstream.target else { panic!() };
    assert_eq!(policy.directory, directory.path("out"));
    assert_eq!((policy.rotate_bytes, policy.rotate_every), (1 << 20, Duration::from_secs(300)));
    assert_eq!((policy.content, policy.compression), (Content::Body, Compression::Zstd));
    assert_eq!((upstream.concurrency, upstream.batch.as_ref().unwrap().max_items), (1, 1_000));
    assert!(directory.load().unwrap().warnings.iter().all(|warning| !warning.to_string().contains("upstream.u")));
}

#[test]
fn what_makes_no_sense_is_refused_by_the_name_of_its_key() {
    for (lines, expected) in [
        ("url = 'http://x'\nkind = 'pipe'", "kind \"pipe\" is not known; known: http, file"),
        (
            "url = 'http://x'\nrotate = {}",
            "upstream.u.rotate: has no effect without kind = \"file\"; remove it or say so",
        ),
        (
            "url = 'http://x'\nbatch = { max_items = 0 }",
            "upstream.u.batch.max_items: takes a whole number from 1 to 10000",
        ),
        (
            "url = 'http://x'\nbatch = { max_size = '1GiB' }",
            "max_size must lie between 1B and 16MiB: a batch is held in memory",
        ),
        ("url = 'http://x'\nbatch = { max_wait = '2m' }", "max_wait is longer than 60s"),
        (
            "url = 'http://x'\nbatch = {}\nsign = 'source'\ncloudevents = { mode = 'binary' }",
            "upstream.u.sign: signs single events; several in one request are not signed: remove sign or batch",
        ),
        ("kind = 'file'", "upstream.u.path: is missing; write where files begin"),
        ("kind = 'file'\npath = '/tmp/x'", "upstream.u.path: has no {time} in its file name"),
        (
            "kind = 'file'\npath = '/tmp/{time}'\nurl = 'http://x'",
            "upstream.u.url: has no effect with kind = \"file\"; remove it",
        ),
        ("kind = 'file'\npath = '/tmp/{time}'\nrotate = { size = '1B' }", "upstream.u.rotate: size is below 1KiB"),
        ("kind = 'file'\npath = '/tmp/{time}'\nbatch = { format = 'array' }", "upstream.u.batch.format: has no effect"),
    ] {
        let found = problems(lines);
        assert!(found.iter().any(|message| message.contains(expected)), "{lines}: {found:?}");
    }
    let two = "kind = 'file'\npath = '/tmp/{time}'\n[upstream.v]\nkind = 'file'\npath = '/tmp/{time}'\n";
    let found = problems(two);
    assert!(found.iter().any(|message| message.contains("each has files of its own")), "{found:?}");
}

#[test]
fn a_directory_that_is_not_there_is_warned_about() {
    let directory = Directory::with(&format!("{HEAD}kind = 'file'\npath = 'gone/{{time}}'\n"));
    let loaded = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    let warnings = directory.messages(&loaded.warnings);
    assert!(
        warnings.iter().any(|warning| warning.contains("is no directory: events wait until there is one")),
        "{warnings:?}"
    );
}

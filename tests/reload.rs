//! The running program and a configuration that goes bad under it.

#![expect(clippy::unwrap_used, reason = "a test may end by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

const BINARY: &str = env!("CARGO_BIN_EXE_stagepost");

/// A server that is ended with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Starts a server and waits until it says where it listens.
fn start(config: &Path) -> (Server, String) {
    let mut child = Command::new(BINARY).args(["run", "--config"]).arg(config).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let server = Server(child);
    loop {
        let mut line = String::new();
        assert!(said.read_line(&mut line).unwrap() > 0, "the server ended before it was serving");
        let Some((_, after)) = line.split_once("bound=\"") else { continue };
        let address = after.split('"').next().unwrap().to_owned();
        // What it says from now on is read, so that it never waits for a reader.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        return (server, address);
    }
}

fn post(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

fn reload(socket: &Path) -> Output {
    Command::new(BINARY).args(["reload", "--socket"]).arg(socket).output().unwrap()
}

#[test]
fn a_bad_configuration_is_refused_and_the_good_one_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stagepost.toml");
    let text = |source: &str| {
        format!(
            "[[listen]]\naddress = '127.0.0.1:0'\n[store]\npath = 'data'\n[source.a]\npath = '{source}'\nto = ['u']\n\
             [upstream.u]\nurl = 'http://127.0.0.1:9'\n"
        )
    };
    fs::write(&path, text("/a")).unwrap();
    let (server, address) = start(&path);
    let socket = directory.path().join("data/admin.sock");
    assert_eq!(post(&address, "/a"), "HTTP/1.1 202 Accepted");

    fs::write(&path, format!("{}nonsense = 1\n", text("/b"))).unwrap();
    let refused = reload(&socket);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("stagepost.toml:10: upstream.u.nonsense: unknown key"), "{said}");
    assert_eq!(post(&address, "/a"), "HTTP/1.1 202 Accepted");
    assert_eq!(post(&address, "/b"), "HTTP/1.1 404 Not Found");

    fs::write(&path, text("/b")).unwrap();
    let taken = reload(&socket);
    assert_eq!(taken.status.code(), Some(0), "{}", String::from_utf8_lossy(&taken.stderr));
    assert_eq!(post(&address, "/b"), "HTTP/1.1 202 Accepted");
    drop(server);
}

//! Owns `stagepost send`: a sample, signed with the configured secret, sent in at the front door like any sender would.

use std::io::Read as _;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    Exit, Failure, Host, Terminal,
    args::SendArgs,
    ask::{Door, Fault, SampleAsk, Sampled},
    print::{escaped, escaped_bytes},
};

/// How long the whole exchange may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// The largest body that is sent, in bytes.
const BODY_BYTES_MAX: u64 = 256 << 20;
/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

pub(super) fn send(args: &SendArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let body = match &args.body {
        None => None,
        Some(path) if path.as_os_str() == "-" => Some(read(&mut *terminal.input, "standard input")?),
        Some(path) => {
            let reading = |error| Failure::new(Exit::Io, format!("reading {}: {error}", path.display()));
            Some(read(std::fs::File::open(path).map_err(reading)?, &path.display().to_string())?)
        }
    };
    let fault = match (args.bad_signature, args.stale) {
        (true, _) => Fault::BadSignature,
        (_, true) => Fault::Stale,
        _ => Fault::None,
    };
    let (kind, to) = (args.kind.clone(), args.to.clone());
    let ask = SampleAsk { source: args.source.clone(), kind, body, fault, to, now: terminal.now };
    let sampled = host.sample(args.config.as_deref(), &ask)?;
    writeln!(
        terminal.out,
        "{} {} to {}: {} bytes, signed as {}",
        sampled.method,
        escaped(&sampled.shown),
        escaped(&sampled.door.address),
        sampled.body.len(),
        sampled.scheme,
    )?;
    let first = exchange(&sampled)?;
    tell(&first, terminal)?;
    let mut expected = match sampled.expected {
        Some(status) => first.status.as_u16() == status,
        None => first.status.is_success(),
    };
    if args.duplicate {
        let second = exchange(&sampled)?;
        tell(&second, terminal)?;
        let known = second.headers.get("stagepost-duplicate").is_some_and(|value| value == "true");
        expected &= second.status.is_success() && known;
        if expected {
            writeln!(terminal.out, "as expected: the second one is a duplicate of the first")?;
        } else {
            let why =
                "the second one was not taken for a duplicate: the source has no dedupe key, or the sample has none";
            writeln!(terminal.err, "{why}")?;
        }
    } else if !expected {
        let wanted = sampled.expected.map_or_else(|| "a success".to_owned(), |status| status.to_string());
        writeln!(terminal.err, "not as expected: {wanted} should have come; `stagepost refused` says why")?;
    }
    Ok(if expected { Exit::Done } else { Exit::Partly })
}

fn read(from: impl std::io::Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let reading = |error| Failure::new(Exit::Io, format!("reading {name}: {error}"));
    from.take(BODY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(reading)?;
    match bytes.len() as u64 > BODY_BYTES_MAX {
        true => Err(Failure::usage(format!("{name} is larger than any body that is sent"))),
        false => Ok(bytes),
    }
}

fn tell(answer: &Answer, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    writeln!(terminal.out, "{}", answer.status)?;
    for (name, value) in &answer.headers {
        if !matches!(name.as_str(), "date" | "content-length" | "connection") {
            writeln!(terminal.out, "{name}: {}", escaped_bytes(value.as_bytes()))?;
        }
    }
    if !answer.body.is_empty() {
        writeln!(terminal.out, "\n{}", escaped_bytes(&answer.body))?;
    }
    Ok(())
}

fn exchange(sampled: &Sampled) -> Result<Answer, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let late = || Failure::new(Exit::Io, format!("no answer within {} s", PATIENCE.as_secs()));
        timeout(PATIENCE, over(sampled)).await.map_err(|_| late())?
    })
}

async fn over(sampled: &Sampled) -> Result<Answer, Failure> {
    let Door { address, tls } = &sampled.door;
    let unreachable = |error: std::io::Error| {
        let what = format!("can't connect to {address}: {error}; is the instance running?");
        Failure::new(Exit::NotRunning, what)
    };
    if let Some(path) = address.strip_prefix("unix:") {
        return ask(sampled, UnixStream::connect(path).await.map_err(unreachable)?).await;
    }
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let Some((name, config)) = tls else { return ask(sampled, stream).await };
    let name =
        ServerName::try_from(name.clone()).map_err(|_| Failure::usage(format!("{name:?} is no name of a server")))?;
    let stream = tokio_rustls::TlsConnector::from(config.clone())
        .connect(name, stream)
        .await
        .map_err(|error| Failure::new(Exit::Io, format!("no TLS with {address}: {error}")))?;
    ask(sampled, stream).await
}

async fn ask(
    sampled: &Sampled,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Answer, Failure> {
    let broken = |error: hyper::Error| Failure::new(Exit::Io, format!("the connection broke off: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with the sender.
    tokio::spawn(connection);
    let mut request = Request::builder().method(sampled.method.as_str()).uri(&sampled.target);
    for (name, value) in &sampled.headers {
        request = request.header(name, value.as_slice());
    }
    let request = request
        .body(Full::new(Bytes::copy_from_slice(&sampled.body)))
        .map_err(|error| Failure::usage(format!("the sample can't be sent: {error}")))?;
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| Failure::new(Exit::Io, format!("the answer can't be read: {error}")))?
        .to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

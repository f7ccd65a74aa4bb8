//! Owns the conversation with a running instance: HTTP/1 over its Unix socket.
//!
//! Promises that every way in which it can fail has its exit code, and that a listing is read line by line.

use std::{io, path::Path};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, runtime::Runtime};

use super::{Exit, Failure};
use crate::admin::wire::Problem;

/// A running instance. One connection for each question.
pub(super) struct Client<'a> {
    socket: &'a Path,
    runtime: Runtime,
}

impl<'a> Client<'a> {
    /// A client of the instance that answers on `socket`.
    pub(super) fn new(socket: &'a Path) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket, runtime })
    }

    /// Asks for JSON.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        understood(&self.bytes(Method::GET, path, Bytes::new())?)
    }

    /// Asks for bytes.
    pub(super) fn get_bytes(&self, path: &str) -> Result<Bytes, Failure> {
        self.bytes(Method::GET, path, Bytes::new())
    }

    /// Sends JSON and takes JSON.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        understood(&self.bytes(Method::POST, path, encoded(body)?)?)
    }

    /// Sends bytes and takes JSON.
    pub(super) fn post_bytes<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, Failure> {
        understood(&self.bytes(Method::POST, path, body)?)
    }

    /// Sends JSON and takes lines of JSON, one by one, until `each` fails.
    pub(super) fn lines<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        each: &mut dyn FnMut(T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let body = encoded(body)?;
        self.runtime.block_on(async {
            let mut answer = self.send(Method::POST, path, body).await?;
            let mut pending = Vec::new();
            // A line may be large and come in many pieces: none of them is looked at twice.
            let mut searched = 0;
            while let Some(frame) = answer.frame().await {
                let Ok(data) = frame.map_err(|error| self.broken(&error))?.into_data() else { continue };
                pending.extend_from_slice(&data);
                let mut begin = 0;
                while let Some(end) = memchr::memchr(b'\n', pending.get(searched..).unwrap_or_default()) {
                    let line = pending.get(begin..searched + end).unwrap_or_default();
                    each(understood(line)?)?;
                    (begin, searched) = (searched + end + 1, searched + end + 1);
                }
                pending.drain(..begin);
                searched = pending.len();
            }
            Ok(())
        })
    }

    /// Waits, between two questions of a follower.
    pub(super) fn pause(&self, time: std::time::Duration) {
        // Inside the block: a sleep is made on the runtime that it runs on.
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    fn bytes(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        self.runtime.block_on(async {
            let answer = self.send(method, path, body).await?;
            Ok(answer.collect().await.map_err(|error| self.broken(&error))?.to_bytes())
        })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Incoming, Failure> {
        let stream = UnixStream::connect(self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // Ends with the connection, which ends with the sender.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "stagepost")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::usage(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        let body = answer.into_body().collect().await.map_err(|error| self.broken(&error))?.to_bytes();
        Err(refused(status, &body))
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::new(
                Exit::Permission,
                format!("no permission for {socket}: become its owner or a member of its group (admin.socket_group)"),
            ),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
                Exit::NotRunning,
                format!("no instance answers on {socket}: start it, or name another with --config, --socket or --data"),
            ),
            _ => Failure::new(Exit::Io, format!("connecting to {socket}: {error}")),
        }
    }

    fn broken(&self, error: &hyper::Error) -> Failure {
        Failure::new(Exit::Io, format!("the connection to {} broke off: {error}", self.socket.display()))
    }
}

/// A path with the parameters that are given.
pub(super) fn query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

fn encoded(body: &impl Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| Failure::new(Exit::Io, error.to_string()))
}

fn understood<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        let version = env!("CARGO_PKG_VERSION");
        Failure::new(Exit::Io, format!("the instance gave an answer that this version ({version}) can't read: {error}"))
    })
}

/// The exit code of an error answer.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let exit = match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => Exit::Usage,
        StatusCode::NOT_FOUND => Exit::NoSuchId,
        StatusCode::CONFLICT => Exit::Config,
        StatusCode::FORBIDDEN => Exit::Permission,
        StatusCode::UNPROCESSABLE_ENTITY => Exit::Damage,
        _ => Exit::Io,
    };
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => {
            let lines: Vec<String> = std::iter::once(problem.title).chain(problem.details).collect();
            Failure::new(exit, lines.join("\n"))
        }
        Err(_) => Failure::new(exit, format!("the instance answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_answer_has_its_exit_code() {
        for (status, exit) in [
            (400, Exit::Usage),
            (403, Exit::Permission),
            (404, Exit::NoSuchId),
            (409, Exit::Config),
            (413, Exit::Usage),
            (422, Exit::Damage),
            (500, Exit::Io),
            (503, Exit::Io),
        ] {
            let body = br#"{"status":1,"title":"what","details":["a","b"]}"#;
            let failure = refused(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!((failure.exit, failure.message.as_str()), (exit, "what\na\nb"));
        }
    }

    #[test]
    fn a_follower_can_wait_between_two_questions() {
        Client::new(Path::new("absent.sock")).unwrap().pause(std::time::Duration::from_millis(1));
    }

    #[test]
    fn an_instance_that_does_not_answer_is_not_running() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let failure = Client::new(&socket).unwrap().get_bytes("/v1/status").unwrap_err();
        assert_eq!(failure.exit, Exit::NotRunning);
    }
}

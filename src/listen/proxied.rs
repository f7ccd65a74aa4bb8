//! Owns the PROXY protocol, versions 1 and 2: the header by which a load balancer says whose connection it passes on.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Promises that not one byte after the header is read,
//! that it is bounded, and that whatever is no header ends the connection. Whether its sender is believed is decided
//! elsewhere. Deliberately absent: what version 2 carries beside the addresses (it is read and thrown away).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, its end included (section 2.1).
const LINE_BYTES_MAX: usize = 107;

/// The most bytes of version 2 behind its fixed 16: addresses and what comes with them.
const REST_BYTES_MAX: usize = 4096;

/// Reads the header. Whose connection it is; None if the balancer speaks for itself or does not know. The outer None: the
/// peer closed without a word, as those do who only look whether somebody listens.
///
/// # Errors
/// `InvalidData` for what is no header, or what the system said.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Option<SocketAddr>>> {
    let mut beginning = [0; SIGNATURE.len()];
    let (first, rest) = beginning.split_at_mut(1);
    if stream.read(first).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(rest).await?;
    if beginning == *SIGNATURE {
        version_2(stream).await.map(Some)
    } else {
        version_1(beginning, stream).await.map(Some)
    }
}

async fn version_1(beginning: [u8; 12], stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut line = beginning.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_BYTES_MAX || !line.starts_with(b"PROXY ") {
            return Err(wrong());
        }
        line.push(stream.read_u8().await?);
    }
    let text = std::str::from_utf8(&line).map_err(|_| wrong())?.trim_end_matches("\r\n");
    let mut words = text.split(' ').skip(1);
    match words.next() {
        Some("TCP4") => addresses::<Ipv4Addr>(words).map(Some),
        Some("TCP6") => addresses::<Ipv6Addr>(words).map(Some),
        Some("UNKNOWN") => Ok(None),
        _ => Err(wrong()),
    }
}

/// Source and destination address, source and destination port.
fn addresses<'a, A>(mut words: impl Iterator<Item = &'a str>) -> io::Result<SocketAddr>
where
    A: FromStr + Into<IpAddr>,
{
    let mut address = || words.next().and_then(|word| word.parse::<A>().ok()).map(Into::into).ok_or_else(wrong);
    let (source, _destination) = (address()?, address()?);
    let mut port = || words.next().and_then(port_of).ok_or_else(wrong);
    let (port, _destination) = (port()?, port()?);
    if words.next().is_some() { Err(wrong()) } else { Ok(SocketAddr::new(source, port)) }
}

/// Digits without a sign and without zeros in front.
fn port_of(word: &str) -> Option<u16> {
    word.parse::<u16>().ok().filter(|port| port.to_string() == word)
}

async fn version_2(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let [command, family, high, low] = fixed;
    let mut rest = vec![0; usize::from(u16::from_be_bytes([high, low]))];
    if rest.len() > REST_BYTES_MAX {
        return Err(wrong());
    }
    stream.read_exact(&mut rest).await?;
    match (command, family) {
        // LOCAL: the balancer itself, to see whether we live.
        (0x20, _) => Ok(None),
        // TCP over IPv4, TCP over IPv6.
        (0x21, 0x11) => source::<4>(&rest, 8).map(Some),
        (0x21, 0x21) => source::<16>(&rest, 32).map(Some),
        // Unspecified, and a stream socket of the balancer's own machine.
        (0x21, 0x00 | 0x31) => Ok(None),
        _ => Err(wrong()),
    }
}

/// The source address, and the port that stands at `port_at`.
fn source<const N: usize>(rest: &[u8], port_at: usize) -> io::Result<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let address = rest.first_chunk::<N>().map(|address| IpAddr::from(*address));
    // Both ports: the header must have room for the second one, too.
    let port =
        rest.get(port_at..).and_then(<[u8]>::first_chunk::<4>).map(|[high, low, ..]| u16::from_be_bytes([*high, *low]));
    address.zip(port).map(|(address, port)| SocketAddr::new(address, port)).ok_or_else(wrong)
}

fn wrong() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no header of the PROXY protocol")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read, and what is left for HTTP.
    async fn given(bytes: &[u8]) -> (Option<Option<Option<String>>>, Vec<u8>) {
        let mut from = bytes;
        let read = read(&mut from).await.ok();
        (read.map(|read| read.map(|told| told.map(|address| address.to_string()))), from.to_vec())
    }

    fn two(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest, b"GET"].concat()
    }

    #[tokio::test]
    async fn both_versions_say_whose_connection_it_is_and_nothing_after_them_is_read() {
        let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[9; 16], &[0x1f, 0x90, 0, 80]].concat();
        let four = [203, 0, 113, 9, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let with_more = [&four[..], &[4, 0, 2, 7, 7]].concat();
        for (bytes, expected) in [
            (b"PROXY TCP4 203.0.113.9 10.0.0.1 8080 80\r\nGET".to_vec(), Some("203.0.113.9:8080")),
            (b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\nGET".to_vec(), Some("[2001:db8::1]:1")),
            (b"PROXY UNKNOWN\r\nGET".to_vec(), None),
            (b"PROXY UNKNOWN whatever stands here\r\nGET".to_vec(), None),
            (two(0x21, 0x11, &four), Some("203.0.113.9:8080")),
            (two(0x21, 0x11, &with_more), Some("203.0.113.9:8080")),
            (two(0x21, 0x21, &six), Some("[2001:db8::1]:8080")),
            (two(0x21, 0x31, &[0; 216]), None),
            (two(0x21, 0x00, &[]), None),
            (two(0x20, 0x11, &four), None),
            (two(0x20, 0x00, &[]), None),
        ] {
            let (read, left) = given(&bytes).await;
            let shown = String::from_utf8_lossy(&bytes);
            assert_eq!(read, Some(Some(expected.map(str::to_owned))), "{shown}");
            assert_eq!(left, b"GET", "{shown}");
        }
        assert_eq!(given(b"").await.0, Some(None), "closed without a word");
    }

    #[tokio::test]
    async fn what_is_no_header_is_an_error() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES_MAX));
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 8080\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 8080 80 1\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9  10.0.0.1 8080 80\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 ::1 8080 80\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 08080 80\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 +8080 80\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 65536 80\r\n".to_vec(),
            b"PROXY UDP4 203.0.113.9 10.0.0.1 8080 80\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 8080 80".to_vec(),
            b"PROXY ".to_vec(),
            long.into_bytes(),
            two(0x11, 0x11, &[0; 12]),
            two(0x22, 0x11, &[0; 12]),
            two(0x21, 0x12, &[0; 12]),
            two(0x21, 0x11, &[0; 11]),
            two(0x21, 0x21, &[0; 35]),
            two(0x20, 0x00, &[0; REST_BYTES_MAX + 1]),
            SIGNATURE.to_vec(),
        ] {
            assert_eq!(given(&bytes).await.0, None, "{}", String::from_utf8_lossy(&bytes));
        }
    }
}

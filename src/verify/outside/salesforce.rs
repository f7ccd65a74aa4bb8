//! Owns Salesforce outbound messages: SOAP without a signature, in which the organization's id must be the source's.
//!
//! Source: "Outbound Messaging" of the Salesforce SOAP API developer guide. Promises that a document with a DTD or an
//! entity of its own is refused, that depth and notifications are bounded, that names are read by their namespace, and
//! that a session id, which is a live credential, is never shown. The id of an organization is no secret: whoever asks
//! for more than it adds a client certificate or an address list.

use std::{borrow::Cow, ops::Range};

use quick_xml::{
    NsReader,
    events::{BytesRef, Event},
    name::{Namespace, ResolveResult},
};

use super::{Outside, Reason};
use crate::verify::{Refusal, Verifier};

/// The most notifications of one message (Salesforce's own limit).
pub const NOTIFICATIONS_MAX: usize = 100;

/// The deepest nesting of elements.
const DEPTH_MAX: usize = 32;

/// The longest id that is looked at, in bytes.
const ID_BYTES_MAX: usize = 64;

const SOAP: &[u8] = b"http://schemas.xmlsoap.org/soap/envelope/";
const OUTBOUND: &[u8] = b"http://soap.sforce.com/2005/09/outbound";

/// What stands in place of a session id.
const HIDDEN: &[u8] = b"[hidden]";

/// What the configuration says about a `salesforce` source.
pub struct SalesforceSettings {
    organization: [u8; 15],
}

impl SalesforceSettings {
    /// The id of the organization, in its form of 15 or of 18 characters.
    ///
    /// # Errors
    /// In words, when it is no such id.
    pub fn new(organization_id: &str) -> Result<Self, String> {
        let organization = short_id(organization_id).filter(|id| id.starts_with(b"00D"));
        organization.map(|organization| Self { organization }).ok_or_else(|| {
            "is no id of an organization; copy it from Setup, Company Information: 15 or 18 characters that begin with \
             00D"
            .to_owned()
        })
    }
}

pub(in crate::verify) struct Salesforce {
    organization: [u8; 15],
}

impl Verifier {
    /// Checks outbound messages of Salesforce: scheme `salesforce`.
    #[must_use]
    pub fn salesforce(settings: &SalesforceSettings) -> Self {
        Self::outside(Outside::Salesforce(Salesforce { organization: settings.organization }))
    }
}

impl Salesforce {
    pub(super) fn read(&self, body: &[u8]) -> Result<(), Refusal> {
        let message = Message::read(body).ok_or(Reason::MalformedBody)?;
        let organization = short_id(&message.organization).ok_or(Reason::MalformedBody)?;
        if organization == self.organization { Ok(()) } else { Err(Reason::OtherOrganization.into()) }
    }
}

/// One notification of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// `04l…`: the same on every resend.
    pub id: Box<str>,
    /// Where the element stands in the body, tags included.
    pub at: Range<usize>,
}

/// The notifications of a message, in their order; None if the body is no outbound message.
#[must_use]
pub fn notifications(body: &[u8]) -> Option<Vec<Notification>> {
    Message::read(body).map(|message| message.notifications)
}

/// The body with what stands in its `SessionId` elements replaced, also if the body is no XML. Takes time in proportion to
/// the body.
#[must_use]
pub fn hide_session_ids(body: &[u8]) -> Cow<'_, [u8]> {
    let rest_of = |at: usize| body.get(at..).unwrap_or_default();
    let mut shown = Vec::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(open) = memchr::memchr(b'<', rest_of(at)).map(|found| at + found) {
        let after = rest_of(open + 1);
        let length = after.iter().position(|byte| b" \t\r\n/><".contains(byte)).unwrap_or(after.len());
        let name = after.get(..length).unwrap_or_default();
        at = open + 1 + length;
        if name.rsplit(|byte| *byte == b':').next() != Some(b"SessionId") {
            continue;
        }
        let Some(end) = memchr::memchr(b'>', rest_of(at)).map(|found| at + found) else { break };
        at = end + 1;
        if body.get(end - 1) == Some(&b'/') {
            continue;
        }
        let close = [b"</", name].concat();
        let close = memchr::memmem::find(rest_of(at), &close).map_or(body.len(), |found| at + found);
        shown.extend_from_slice(body.get(copied..at).unwrap_or_default());
        shown.extend_from_slice(HIDDEN);
        (copied, at) = (close, close);
    }
    if copied == 0 {
        return Cow::Borrowed(body);
    }
    shown.extend_from_slice(rest_of(copied));
    Cow::Owned(shown)
}

/// What matters of a message.
struct Message {
    organization: String,
    notifications: Vec<Notification>,
}

/// The elements that matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    Envelope,
    Body,
    Notifications,
    OrganizationId,
    Notification,
    Id,
    Other,
}

impl Message {
    fn read(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let mut walk = Walk::default();
        let mut reader = NsReader::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
        reader.config_mut().expand_empty_elements = true;
        let shift = text.len() - text.strip_prefix('\u{feff}').unwrap_or(text).len();
        loop {
            let before = position(reader.buffer_position(), shift)?;
            let (namespace, event) = reader.read_resolved_event().ok()?;
            match event {
                Event::Start(start) => {
                    let element = named(&namespace, start.local_name().as_ref().as_bytes());
                    walk.open(element, before)?;
                }
                Event::End(_) => {
                    let after = position(reader.buffer_position(), shift)?;
                    walk.close(after)?;
                }
                Event::Text(piece) => walk.text(&piece.xml10_content())?,
                Event::CData(piece) => walk.text(&piece.xml10_content())?,
                Event::GeneralRef(reference) => walk.text(resolve(&reference)?.encode_utf8(&mut [0; 4]))?,
                Event::Decl(decl) => {
                    let encoding = decl.encoding().transpose().ok()?;
                    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("utf-8")) {
                        return None;
                    }
                }
                Event::Comment(_) => {}
                // An empty element comes as start and end; a DTD or an instruction has no place in SOAP.
                Event::Empty(_) | Event::DocType(_) | Event::PI(_) => return None,
                Event::Eof => break,
            }
        }
        walk.finish()
    }
}

fn position(position: u64, shift: usize) -> Option<usize> {
    usize::try_from(position).ok()?.checked_add(shift)
}

fn named(namespace: &ResolveResult<'_>, local: &[u8]) -> Element {
    let ResolveResult::Bound(Namespace(namespace)) = namespace else { return Element::Other };
    match (namespace.as_bytes(), local) {
        (SOAP, b"Envelope") => Element::Envelope,
        (SOAP, b"Body") => Element::Body,
        (OUTBOUND, b"notifications") => Element::Notifications,
        (OUTBOUND, b"OrganizationId") => Element::OrganizationId,
        (OUTBOUND, b"Notification") => Element::Notification,
        (OUTBOUND, b"Id") => Element::Id,
        _ => Element::Other,
    }
}

/// A character reference or one of the five entities that XML itself has; others would need a DTD.
fn resolve(reference: &BytesRef<'_>) -> Option<char> {
    if let Some(character) = reference.resolve_char_ref().ok()? {
        return Some(character);
    }
    match &**reference {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "apos" => Some('\''),
        "quot" => Some('"'),
        _ => None,
    }
}

/// The walk through a document: where it is, and what was found.
#[derive(Default)]
struct Walk {
    path: Vec<Element>,
    organization: Option<String>,
    notifications: Vec<Notification>,
    /// The notification that is open: its id, where it begins.
    open: Option<(Option<String>, usize)>,
    seen_envelope: bool,
    seen_notifications: bool,
}

impl Walk {
    fn open(&mut self, element: Element, at: usize) -> Option<()> {
        use Element as E;
        if self.path.len() >= DEPTH_MAX {
            return None;
        }
        self.path.push(element);
        match *self.path.as_slice() {
            [E::Envelope] => (!std::mem::replace(&mut self.seen_envelope, true)).then_some(()),
            [_] => None,
            [E::Envelope, E::Body, E::Notifications] => {
                (!std::mem::replace(&mut self.seen_notifications, true)).then_some(())
            }
            [E::Envelope, E::Body, E::Notifications, E::OrganizationId] => {
                self.organization.replace(String::new()).is_none().then_some(())
            }
            [E::Envelope, E::Body, E::Notifications, E::Notification] => {
                self.open = Some((None, at));
                (self.notifications.len() < NOTIFICATIONS_MAX).then_some(())
            }
            [E::Envelope, E::Body, E::Notifications, E::Notification, E::Id] => {
                self.open.as_mut()?.0.replace(String::new()).is_none().then_some(())
            }
            _ => Some(()),
        }
    }

    fn close(&mut self, after: usize) -> Option<()> {
        use Element as E;
        if let [E::Envelope, E::Body, E::Notifications, E::Notification] = *self.path.as_slice() {
            let (id, begin) = self.open.take()?;
            let id = id.filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()))?;
            self.notifications.push(Notification { id: id.into(), at: begin..after });
        }
        self.path.pop().map(|_| ())
    }

    fn text(&mut self, piece: &str) -> Option<()> {
        use Element as E;
        let into = match *self.path.as_slice() {
            [] => return piece.chars().all(char::is_whitespace).then_some(()),
            [E::Envelope, E::Body, E::Notifications, E::OrganizationId] => self.organization.as_mut()?,
            [E::Envelope, E::Body, E::Notifications, E::Notification, E::Id] => self.open.as_mut()?.0.as_mut()?,
            _ => return Some(()),
        };
        into.push_str(piece);
        (into.len() <= ID_BYTES_MAX).then_some(())
    }

    fn finish(self) -> Option<Message> {
        let complete = self.path.is_empty() && !self.notifications.is_empty();
        let organization = self.organization.filter(|_| complete)?;
        Some(Message { organization, notifications: self.notifications })
    }
}

/// The case-sensitive form of an id. The form of 18 characters has three more that tell the case of the others; they
/// must agree.
fn short_id(text: &str) -> Option<[u8; 15]> {
    let text = text.as_bytes();
    let short: [u8; 15] = text.get(..15)?.try_into().ok()?;
    if !short.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    let matches = match text.get(15..)? {
        [] => true,
        suffix => suffix.eq_ignore_ascii_case(&suffix_of(&short)),
    };
    matches.then_some(short)
}

/// For each five characters, one that tells which of them are upper case.
fn suffix_of(short: &[u8; 15]) -> [u8; 3] {
    let mut suffix = [0; 3];
    for (letter, five) in suffix.iter_mut().zip(short.chunks(5)) {
        let bits = five.iter().rev().fold(0_u8, |bits, byte| bits << 1 | u8::from(byte.is_ascii_uppercase()));
        *letter = if bits < 26 { b'A' + bits } else { b'0' + (bits - 26) };
    }
    suffix
}

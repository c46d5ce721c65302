//! What must hold for any bytes, as functions over bytes: `cargo test` calls them with generated input, the targets in
//! `fuzz/` with what they find. They return nothing and panic when a property fails.
//!
//! Not for use outside of tests.

#![forbid(unsafe_code)]

use simd_json::prelude::*;

use super::compression::Compression;
use super::deframe::{Deframer, EMPTY_FRAGMENTS_MAX, Message};
use super::egress::{EgressError, EgressProxy, Tunnel};
use super::encode::Encoder;
use super::frame::{self, FrameError, Opcode, Role};
use super::http::{self, Request};
use super::inflate::{Inflated, Inflater};
use super::mask;
use super::scan::{self, Envelope};
use super::url::GatewayUrl;

/// Small enough for generated input to exceed it.
const MESSAGE_BYTES_MAX: usize = 1000;

/// A message and the bytes in it.
type Owned = (Opcode, Vec<u8>);

/// Frames are read alike however they are cut, and as a plain reading of the whole buffer gives them.
pub fn frame(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let wanted = deframe_plainly(role, bytes);
    for piece_len in [bytes.len().max(1), 1, usize::from(choice >> 1) + 1] {
        assert_eq!(deframe(role, bytes.chunks(piece_len)), wanted, "{role:?} in pieces of {piece_len}");
    }
}

/// A proxy's answers mean the same however they are cut, and no more is taken for the handshake than came.
pub fn egress(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let url = ["http://proxy:1", "http://a:b@proxy:1", "socks5://proxy:1", "socks5://a:b@proxy:1"];
    let proxy = EgressProxy::parse(url[usize::from(choice & 3)]).expect("a URL of ours");
    let wanted = open_tunnel(&proxy, [bytes].into_iter());
    for piece_len in [1, usize::from(choice >> 2) + 1] {
        assert_eq!(open_tunnel(&proxy, bytes.chunks(piece_len)), wanted, "{proxy} in pieces of {piece_len}");
    }
    if let Ok((Some(used), _)) = wanted {
        assert!(used <= bytes.len());
    }
}

/// Where the tunnel began, and what was said.
type Opened = (Option<usize>, Vec<u8>);

fn open_tunnel<'a>(proxy: &EgressProxy, pieces: impl Iterator<Item = &'a [u8]>) -> Result<Opened, EgressError> {
    let mut said = Vec::new();
    let mut tunnel = Tunnel::open(proxy, "gateway.discord.gg", 443, &mut said)?;
    let mut before = 0;
    for piece in pieces {
        if let Some(used) = tunnel.on_bytes(piece, &mut said)? {
            return Ok((Some(before + used), said));
        }
        before += piece.len();
    }
    Ok((None, said))
}

/// Whatever is valid JSON is understood as simd-json understands it; whatever is not does no harm.
pub fn scan(payload: &[u8]) {
    let exact = scan::scan_exact(payload);
    let trusting = scan::scan(payload);
    for envelope in exact.iter().chain(&trusting) {
        let spans = [&envelope.sequence_span, &envelope.event_type, &envelope.data];
        assert!(spans.into_iter().flatten().all(|span| payload.get(span.clone()).is_some()), "{envelope:?}");
        assert_eq!(envelope.sequence.is_some(), envelope.sequence_span.is_some());
    }

    let mut copy = payload.to_vec();
    let Ok(tape) = simd_json::to_tape(&mut copy) else { return };
    let Some(object) = tape.as_value().as_object() else {
        assert!(exact.is_err(), "no object, yet {exact:?}");
        return;
    };
    let exact = exact.expect("valid JSON");
    let trusting = trusting.expect("valid JSON");
    // A key twice: the last counts.
    let last = |wanted: &str| object.iter().filter(|(key, _)| *key == wanted).last().map(|(_, value)| value);
    // `-0` is an integer to simd-json.
    let integer = |wanted: &str| last(wanted).and_then(|value| value.as_u64());
    let agrees = |wanted: &str, found: Option<u64>| {
        assert!(found == integer(wanted) || found.is_none() && integer(wanted) == Some(0), "{wanted}: {exact:?}");
    };
    agrees("op", exact.op);
    agrees("s", exact.sequence);
    if let (Some(sequence), Some(span)) = (exact.sequence, &exact.sequence_span) {
        assert_eq!(&payload[span.clone()], sequence.to_string().as_bytes());
    }
    // The texts are simd-json's own: its values do not compare when a key stands in them twice.
    let event_type = exact.event_type.clone().map(|span| compact(&payload[span.start - 1..span.end + 1]));
    assert_eq!(event_type, last("t").filter(|value| value.is_str()).map(|value| value.encode()), "{exact:?}");
    let data = exact.data.clone().map(|span| compact(&payload[span]));
    assert_eq!(data, last("d").map(|value| value.encode()), "{exact:?}");

    if trusting != exact {
        assert!(trusting.canonical && !exact.canonical, "{trusting:?} {exact:?}");
        assert!(object.iter().count() > 4, "only a further key may be taken for a part of `d`");
    }

    let mut canonical = Vec::new();
    let rewritten = scan::canonicalize(payload, &exact, &mut canonical);
    assert_eq!(scan::scan_exact(&canonical).as_ref(), Ok(&rewritten));
    if rewritten.canonical {
        assert_eq!(scan::scan(&canonical).as_ref(), Ok(&rewritten));
    }
    let values = |envelope: &Envelope, payload: &[u8]| {
        let bytes = |span: Option<std::ops::Range<usize>>| span.map(|span| payload[span].to_vec());
        let data = bytes(envelope.data.clone()).unwrap_or(b"null".to_vec());
        (envelope.op, envelope.sequence, bytes(envelope.event_type.clone()), data)
    };
    assert_eq!(values(&rewritten, &canonical), values(&exact, payload));
    if exact.canonical {
        assert_eq!(canonical, payload);
    }
}

/// A head is whole at its last byte, not before, and whatever follows it; any answer of ours is whole HTTP.
pub fn http_upgrade(bytes: &[u8]) {
    match http::parse_request(bytes) {
        Ok(Some((request, len))) => {
            assert_eq!(http::parse_request(&bytes[..len]), Ok(Some((request.clone(), len))));
            assert_eq!(http::parse_request(&bytes[..len - 1]), Ok(None));
            if let Request::Upgrade(upgrade) = request {
                assert!(http::upgrade_response(&upgrade).ends_with(b"\r\n\r\n"));
            }
        }
        Ok(None) => assert!(bytes.len() < http::REQUEST_BYTES_MAX),
        Err(error) => {
            let response = error.response();
            let mut headers = [httparse::EMPTY_HEADER; 8];
            assert!(httparse::Response::new(&mut headers).parse(&response).is_ok_and(|it| it.is_complete()));
        }
    }
    if let Ok(Some(len)) = http::parse_upgrade_response(bytes, [0; 16]) {
        assert_eq!(http::parse_upgrade_response(&bytes[..len], [0; 16]), Ok(Some(len)));
    }
    if let Some(url) = str::from_utf8(bytes).ok().and_then(|url| GatewayUrl::parse(url).ok()) {
        assert_eq!(GatewayUrl::parse(&url.to_string()), Ok(url));
    }
}

/// Any bytes inflate to at most the limit, and an error stays.
pub fn inflate(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
        let mut inflater = Inflater::with_limit(compression, MESSAGE_BYTES_MAX);
        let mut payload = Vec::new();
        for message in bytes.chunks(usize::from(choice) + 1) {
            match inflater.inflate(message, &mut payload) {
                Ok(state) => {
                    assert!(payload.len() <= MESSAGE_BYTES_MAX);
                    if state == Inflated::Whole {
                        payload.clear();
                    }
                }
                Err(error) => {
                    assert_eq!(inflater.inflate(message, &mut payload), Err(error));
                    break;
                }
            }
        }
    }
    round_trip(&[bytes, &[choice], bytes], usize::from(choice) + 1);
}

/// What is compressed comes out as it went in. The bytes say how the payloads are made of them: longer than any window, with repeats near and far.
pub fn compress(bytes: &[u8]) {
    let Some((recipes, stuff)) = bytes.split_at_checked(12).filter(|it| !it.1.is_empty()) else { return };
    let payloads: Vec<Vec<u8>> = recipes
        .chunks_exact(3)
        .map(|recipe| {
            let [from, len, times] = [recipe[0], recipe[1], recipe[2]].map(usize::from);
            let piece: Vec<u8> = stuff.iter().cycle().skip(from).take(len + 1).copied().collect();
            piece.repeat(times + 1)
        })
        .collect();
    round_trip(&payloads.iter().map(Vec::as_slice).collect::<Vec<_>>(), usize::from(recipes[0]) * 7 + 1);
}

/// Payloads come out as they went in: encoded in parts of `part_len`, deframed, inflated message by message.
pub fn round_trip(payloads: &[&[u8]], part_len: usize) {
    for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
        let mut encoder = Encoder::new(compression);
        let mut stream = Vec::new();
        for payload in payloads.iter().filter(|it| !it.is_empty()) {
            encoder.write(&payload.chunks(part_len).collect::<Vec<_>>(), &mut stream);
        }

        let (messages, error) = deframe_within(Role::Client, usize::MAX, [stream.as_slice()].into_iter());
        assert_eq!(error, None);
        let opcode = if compression == Compression::None { Opcode::Text } else { Opcode::Binary };
        assert!(messages.iter().all(|message| message.0 == opcode));
        let mut inflater = Inflater::new(compression);
        let received = messages.iter().map(|(_, message)| {
            let mut payload = Vec::new();
            assert_eq!(inflater.inflate(message, &mut payload), Ok(Inflated::Whole));
            payload
        });
        let sent = payloads.iter().filter(|it| !it.is_empty()).map(|it| it.to_vec());
        assert!(received.eq(sent), "{compression:?}");
    }
}

/// `json` without its white space, escapes written in one way.
fn compact(json: &[u8]) -> String {
    simd_json::to_tape(&mut json.to_vec()).expect("a part of valid JSON").as_value().encode()
}

fn deframe<'a>(role: Role, reads: impl Iterator<Item = &'a [u8]>) -> (Vec<Owned>, Option<FrameError>) {
    deframe_within(role, MESSAGE_BYTES_MAX, reads)
}

fn deframe_within<'a>(
    role: Role,
    message_bytes_max: usize,
    reads: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Owned>, Option<FrameError>) {
    let mut deframer = Deframer::new(role, message_bytes_max);
    let mut messages = Vec::new();
    for mut input in reads {
        loop {
            match deframer.next(&mut input) {
                Ok(Some(message)) => messages.push(to_owned(message)),
                Ok(None) => {
                    assert!(input.is_empty());
                    break;
                }
                Err(error) => {
                    assert_eq!(deframer.next(&mut input), Err(error));
                    return (messages, Some(error));
                }
            }
        }
    }
    (messages, None)
}

fn to_owned(message: Message<'_>) -> Owned {
    match message {
        Message::Text(payload) => (Opcode::Text, payload.to_vec()),
        Message::Binary(payload) => (Opcode::Binary, payload.to_vec()),
        Message::Ping(payload) => (Opcode::Ping, payload.to_vec()),
        Message::Pong(payload) => (Opcode::Pong, payload.to_vec()),
        Message::Close { code: None, .. } => (Opcode::Close, Vec::new()),
        Message::Close { code: Some(code), reason } => (Opcode::Close, [&code.0.to_be_bytes(), reason].concat()),
    }
}

/// Frames read from one whole buffer, the slow and obvious way.
fn deframe_plainly(role: Role, bytes: &[u8]) -> (Vec<Owned>, Option<FrameError>) {
    let mut messages = Vec::new();
    let error = deframe_into(role, bytes, &mut messages).err();
    (messages, error)
}

fn deframe_into(role: Role, bytes: &[u8], messages: &mut Vec<Owned>) -> Result<(), FrameError> {
    let mut rest = bytes;
    let mut joined: Option<Owned> = None;
    let mut empty_fragments = 0;
    while let Some((header, header_len)) = frame::parse_header(rest)? {
        rest = &rest[header_len..];
        match (role, header.mask) {
            (Role::Server, None) => return Err(FrameError::Unmasked),
            (Role::Client, Some(_)) => return Err(FrameError::Masked),
            _ => {}
        }
        let opcode = header.opcode;
        if !opcode.is_control() {
            match (opcode, &joined) {
                (Opcode::Continuation, None) => return Err(FrameError::StrayContinuation),
                (Opcode::Continuation, Some(_)) | (_, None) => {}
                _ => return Err(FrameError::UnfinishedMessage { opcode }),
            }
            let before = joined.as_ref().map_or(0, |message| message.1.len() as u64);
            let claimed = header.payload_len.saturating_add(before);
            if claimed > MESSAGE_BYTES_MAX as u64 {
                return Err(FrameError::TooBig { claimed, limit: MESSAGE_BYTES_MAX, role });
            }
            if header.payload_len == 0 && !header.fin {
                empty_fragments += 1;
                if empty_fragments > EMPTY_FRAGMENTS_MAX {
                    return Err(FrameError::EmptyFragments { limit: EMPTY_FRAGMENTS_MAX });
                }
            }
        }
        let Some((payload, behind)) = rest.split_at_checked(header.payload_len as usize) else { return Ok(()) };
        rest = behind;
        let mut payload = payload.to_vec();
        mask::apply(&mut payload, header.mask.unwrap_or_default(), 0);
        if opcode.is_control() {
            if opcode == Opcode::Close {
                match *payload {
                    [] => {}
                    [_] => return Err(FrameError::CutCloseCode),
                    [high, low, ..] => {
                        let code = u16::from_be_bytes([high, low]);
                        if !super::CloseCode(code).is_sendable() {
                            return Err(FrameError::InvalidCloseCode { code });
                        }
                    }
                }
            }
            messages.push((opcode, payload));
            continue;
        }
        let message = joined.get_or_insert((opcode, Vec::new()));
        message.1.append(&mut payload);
        if header.fin {
            messages.extend(joined.take());
            empty_fragments = 0;
        }
    }
    Ok(())
}

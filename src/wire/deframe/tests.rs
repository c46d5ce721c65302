//! What a peer may send, and what it is told when it may not.

use proptest::prelude::*;

use super::super::{frame, properties};
use super::*;

const MASK: [u8; 4] = [1, 2, 3, 4];

/// A frame with every bit chosen by hand.
fn raw(first_byte: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write_frame(&mut bytes, Opcode::Binary, payload, mask);
    bytes[0] = first_byte;
    bytes
}

fn server() -> Deframer {
    Deframer::new(Role::Server, CLIENT_MESSAGE_BYTES_MAX)
}

fn client() -> Deframer {
    Deframer::new(Role::Client, UPSTREAM_MESSAGE_BYTES_MAX)
}

/// The error of the first frame of `bytes`.
fn refusal(mut deframer: Deframer, bytes: &[u8]) -> FrameError {
    let mut input = bytes;
    loop {
        match deframer.next(&mut input) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("not refused"),
            Err(error) => return error,
        }
    }
}

#[test]
fn a_whole_unmasked_message_is_lent_from_the_read() {
    let bytes = raw(0x81, b"{}", None);
    let mut input = bytes.as_slice();
    let mut deframer = client();
    let Ok(Some(Message::Text(payload))) = deframer.next(&mut input) else { panic!() };
    assert_eq!(payload.as_ptr(), bytes[2..].as_ptr());
    assert_eq!(deframer.held_bytes(), 0);
}

#[test]
fn a_clients_message_is_unmasked() {
    let bytes = raw(0x82, br#"{"op":1,"d":null}"#, Some(MASK));
    assert_eq!(server().next(&mut bytes.as_slice()), Ok(Some(Message::Binary(br#"{"op":1,"d":null}"#))));
}

#[test]
fn control_frames_come_out_between_the_fragments_of_a_message() {
    let bytes = [
        raw(0x01, b"{\"op\"", None),
        raw(0x89, b"beat", None),
        raw(0x00, b":", None),
        raw(0x8a, b"", None),
        raw(0x80, b"1}", None),
    ]
    .concat();
    let mut input = bytes.as_slice();
    let mut deframer = client();
    assert_eq!(deframer.next(&mut input), Ok(Some(Message::Ping(b"beat"))));
    assert_eq!(deframer.next(&mut input), Ok(Some(Message::Pong(b""))));
    assert_eq!(deframer.next(&mut input), Ok(Some(Message::Text(b"{\"op\":1}"))));
    assert_eq!(deframer.next(&mut input), Ok(None));
}

#[test]
fn a_message_arrives_byte_by_byte() {
    let payload = [b'x'; 300];
    let bytes = raw(0x81, &payload, Some(MASK));
    let mut deframer = server();
    let (last, head) = bytes.split_last().unwrap();
    for byte in head {
        assert_eq!(deframer.next(&mut std::slice::from_ref(byte)), Ok(None));
    }
    assert_eq!(deframer.next(&mut std::slice::from_ref(last)), Ok(Some(Message::Text(&payload))));
}

#[test]
fn a_close_frame_gives_its_code_and_reason() {
    let close = |payload: &[u8]| raw(0x88, payload, None);
    let none = Message::Close { code: None, reason: b"" };
    assert_eq!(client().next(&mut close(b"").as_slice()), Ok(Some(none)));
    let zombie = Message::Close { code: Some(CloseCode::SESSION_TIMED_OUT), reason: b"Session timed out." };
    assert_eq!(client().next(&mut close(b"\x0f\xa9Session timed out.").as_slice()), Ok(Some(zombie)));
    assert_eq!(refusal(client(), &close(b"\x0f")), FrameError::CutCloseCode);
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        assert_eq!(refusal(client(), &close(&code.to_be_bytes())), FrameError::InvalidCloseCode { code });
    }
}

#[test]
fn each_breach_of_rfc_6455_is_named() {
    assert_eq!(refusal(server(), &raw(0x81, b"x", None)), FrameError::Unmasked);
    assert_eq!(refusal(client(), &raw(0x81, b"x", Some(MASK))), FrameError::Masked);
    assert_eq!(refusal(client(), &raw(0xc1, b"x", None)), FrameError::ReservedBits { bits: 0x40 });
    assert_eq!(refusal(client(), &raw(0x83, b"x", None)), FrameError::UnknownOpcode { opcode: 3 });
    assert_eq!(refusal(client(), &raw(0x09, b"x", None)), FrameError::FragmentedControl { opcode: Opcode::Ping });
    assert_eq!(refusal(client(), &raw(0x89, &[0; 126], None)), FrameError::LongControl { opcode: Opcode::Ping });
    assert_eq!(refusal(client(), &raw(0x80, b"x", None)), FrameError::StrayContinuation);
    let two_messages = [raw(0x01, b"a", None), raw(0x82, b"b", None)].concat();
    assert_eq!(refusal(client(), &two_messages), FrameError::UnfinishedMessage { opcode: Opcode::Binary });
}

#[test]
fn a_header_that_claims_2_to_the_62_costs_nothing() {
    let mut header = vec![0x82, 0xff];
    header.extend_from_slice(&(1_u64 << 62).to_be_bytes());
    header.extend_from_slice(&MASK);
    let mut deframer = server();
    let too_big = FrameError::TooBig { claimed: 1 << 62, limit: CLIENT_MESSAGE_BYTES_MAX, role: Role::Server };
    assert_eq!(deframer.next(&mut header.as_slice()), Err(too_big));
    assert_eq!(too_big.close_code(), CloseCode::DECODE_ERROR);
    assert_eq!(deframer.held_bytes(), 0);
}

#[test]
fn a_claim_within_the_limit_reserves_little_before_its_bytes_come() {
    let mut header = Vec::new();
    frame::write_header(&mut header, Opcode::Binary, UPSTREAM_MESSAGE_BYTES_MAX, None);
    let mut deframer = client();
    assert_eq!(deframer.next(&mut header.as_slice()), Ok(None));
    assert!(deframer.held_bytes() <= RESERVED_BYTES_MAX);
}

#[test]
fn the_limit_counts_all_fragments_of_a_message_and_none_of_the_next() {
    let half = vec![b'x'; CLIENT_MESSAGE_BYTES_MAX / 2];
    let whole = [raw(0x01, &half, Some(MASK)), raw(0x80, &half, Some(MASK))].concat();
    let twice = [whole.as_slice(), &whole].concat();
    let mut input = twice.as_slice();
    let mut deframer = server();
    for _ in 0..2 {
        let message = deframer.next(&mut input);
        assert!(matches!(message, Ok(Some(Message::Text(text))) if text.len() == CLIENT_MESSAGE_BYTES_MAX));
    }
    assert_eq!(deframer.next(&mut input), Ok(None));

    let over = [raw(0x01, &half, Some(MASK)), raw(0x00, &half, Some(MASK)), raw(0x80, b"x", Some(MASK))].concat();
    let claimed = CLIENT_MESSAGE_BYTES_MAX as u64 + 1;
    let too_big = FrameError::TooBig { claimed, limit: CLIENT_MESSAGE_BYTES_MAX, role: Role::Server };
    assert_eq!(refusal(server(), &over), too_big);
}

#[test]
fn a_flood_of_empty_fragments_ends() {
    let flood = [raw(0x01, b"", None), raw(0x00, b"", None).repeat(EMPTY_FRAGMENTS_MAX)].concat();
    assert_eq!(refusal(client(), &flood), FrameError::EmptyFragments { limit: EMPTY_FRAGMENTS_MAX });
    let message = [raw(0x01, b"", None), raw(0x00, b"", None), raw(0x80, b"", None)].concat().repeat(100);
    let mut input = message.as_slice();
    let mut deframer = client();
    for _ in 0..100 {
        assert_eq!(deframer.next(&mut input), Ok(Some(Message::Text(b""))));
    }
}

#[test]
fn the_buffer_of_a_giant_message_is_given_back() {
    let giant = raw(0x82, &vec![0; 1 << 20], None);
    let mut deframer = client();
    for read in giant.chunks(64 << 10) {
        let mut input = read;
        while deframer.next(&mut input).unwrap().is_some() {}
    }
    assert_eq!(deframer.held_bytes(), 0);
}

#[test]
fn a_deframer_moves_between_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<Deframer>();
}

/// Frames that are mostly right, so that generated bytes get past the first header.
fn some_frames() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop::sample::select(vec![0x0_u8, 0x0, 0x1, 0x2, 0x8, 0x9, 0xa, 0x3]);
    let payload_len = prop_oneof![4 => 0_usize..5, 2 => 120_usize..130, 1 => 300_usize..600];
    let one = (opcode, prop::bool::weighted(0.6), payload_len, prop::option::weighted(0.5, any::<[u8; 4]>()));
    (any::<u8>(), prop::collection::vec(one, 0..8)).prop_map(|(choice, frames)| {
        let mut bytes = vec![choice];
        for (opcode, fin, payload_len, mask) in frames {
            let payload: Vec<u8> = (0..payload_len).map(|at| at as u8).collect();
            // Mostly the masking that the role wants.
            let mask = if mask == Some([0; 4]) { None } else { (choice & 1 == 0).then(|| mask.unwrap_or(MASK)) };
            bytes.extend_from_slice(&raw(u8::from(fin) << 7 | opcode, &payload, mask));
        }
        bytes
    })
}

proptest! {
    #[test]
    fn messages_do_not_depend_on_how_frames_were_cut(bytes in some_frames()) {
        properties::frame(&bytes);
    }

    #[test]
    fn damaged_frames_are_read_alike_however_cut(
        mut bytes in some_frames(),
        at: prop::sample::Index,
        byte: u8,
        cut: prop::sample::Index,
    ) {
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        properties::frame(&bytes);
    }
}

//! Little-endian fields of what a shard stores, written and read back. Reading never panics: what is cut or odd is `None`.
#![forbid(unsafe_code)]

pub(super) use crate::store::format::Fields;

/// Indices, sequence numbers and keys begin small and are counted up: what is above this was never counted, and sums of a few below do not overflow.
pub(super) const COUNTED_MAX: u64 = 1 << 60;

/// An index, a sequence number, a key: see [`COUNTED_MAX`].
pub(super) fn counted(fields: &mut Fields<'_>) -> Option<u64> {
    fields.u64().filter(|it| *it <= COUNTED_MAX)
}

/// A flag byte and the counted number behind it.
pub(super) fn maybe_counted(fields: &mut Fields<'_>) -> Option<Option<u64>> {
    match flag(fields)? {
        false => Some(None),
        true => Some(Some(counted(fields)?)),
    }
}

pub(super) fn flag(fields: &mut Fields<'_>) -> Option<bool> {
    match fields.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Bytes behind their length.
pub(super) fn bytes<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let len = fields.u32()? as usize;
    fields.take(len)
}

pub(super) fn text<'a>(fields: &mut Fields<'a>) -> Option<&'a str> {
    std::str::from_utf8(bytes(fields)?).ok()
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_maybe_counted(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put_u64(out, value);
    }
}

/// `bytes` are below 4 GiB: nothing that Discord or a client sends is longer.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, u32::try_from(bytes.len()).expect("a payload is below 4 GiB"));
    out.extend_from_slice(bytes);
}

//! Scalars between their JSON form and few bytes: numbers, times, hex digits.
//!
//! Every reader here takes only what the writer beside it writes again to the byte; the rest stays text.

#![forbid(unsafe_code)]

/// Appends LEB128: seven bits a byte, the lowest first.
pub fn put_leb(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes LEB128 off the front. What `put_leb` wrote comes back; bytes that end too early read as if zeros followed.
pub fn take_leb(bytes: &mut &[u8]) -> u64 {
    if let [byte @ 0..0x80, rest @ ..] = *bytes {
        *bytes = rest;
        return u64::from(*byte);
    }
    let (mut value, mut shift) = (0, 0);
    while let [byte, rest @ ..] = *bytes {
        *bytes = rest;
        if shift < 64 {
            value |= u64::from(byte & 0x7f) << shift;
        }
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The number of a text of plain digits without a leading zero.
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || (text[0] == b'0' && text.len() > 1) {
        return None;
    }
    let mut sum = 0_u64;
    for &byte in &text[..text.len().min(19)] {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum = sum * 10 + u64::from(digit); // 19 digits are below 2^64
    }
    match text.get(19) {
        None => Some(sum),
        Some(&byte @ b'0'..=b'9') => sum.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        Some(_) => None,
    }
}

pub fn write_number(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `N` bytes of `2 * N` lower-case hex digits.
pub fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    let mut bad = 0;
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
        bad |= high | low;
        *byte = high << 4 | (low & 0x0f);
    }
    (bad < 16).then_some(bytes)
}

pub fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    let mut text = [0; 32];
    let len = 2 * bytes.len();
    for (pair, &byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&PAIRS[usize::from(byte)]);
    }
    out.extend_from_slice(&text[..len]);
}

/// Digits' values; 0xff for what is none.
const NIBBLES: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut at = 0;
    while at < 16 {
        table[b"0123456789abcdef"[at] as usize] = at as u8;
        at += 1;
    }
    table
};

const PAIRS: [[u8; 2]; 256] = {
    let mut table = [[0; 2]; 256];
    let mut at = 0;
    while at < 256 {
        table[at] = [b"0123456789abcdef"[at >> 4], b"0123456789abcdef"[at & 15]];
        at += 1;
    }
    table
};

/// `2022-10-13T14:35:40+00:00`, or with six digits of a second behind a dot, from 1970 to 2499.
///
/// Five bytes without a fraction, six for whole milliseconds, seven for microseconds; the lowest two bits of the first byte
/// say which.
pub fn put_time(text: &[u8], out: &mut Vec<u8>) -> bool {
    let Some((seconds, micros)) = time(text) else { return false };
    let (value, precision): (u64, usize) = match micros {
        None => (seconds, 0),
        Some(micros) if micros % 1000 == 0 => (seconds * 1000 + micros / 1000, 1),
        Some(micros) => (seconds * 1_000_000 + micros, 2),
    };
    out.extend_from_slice(&((value << 2) | precision as u64).to_le_bytes()[..5 + precision]);
    true
}

/// Takes what `put_time` put off the front, and appends the time.
pub fn write_time(bytes: &mut &[u8], out: &mut Vec<u8>) {
    let Some(&first) = bytes.first() else { return };
    let precision = usize::from(first & 3).min(2);
    let Some((packed, rest)) = bytes.split_at_checked(5 + precision) else { return };
    *bytes = rest;
    let mut wide = [0; 8];
    wide[..packed.len()].copy_from_slice(packed);
    let value = u64::from_le_bytes(wide) >> 2;
    let (seconds, micros) = match precision {
        0 => (value, None),
        1 => (value / 1000, Some(value % 1000 * 1000)),
        _ => (value / 1_000_000, Some(value % 1_000_000)),
    };
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000+00:00";
    put_pair(&mut text, 0, year / 100);
    put_pair(&mut text, 2, year % 100);
    put_pair(&mut text, 5, month);
    put_pair(&mut text, 8, day);
    put_pair(&mut text, 11, second / 3600);
    put_pair(&mut text, 14, second / 60 % 60);
    put_pair(&mut text, 17, second % 60);
    match micros {
        Some(micros) => {
            put_pair(&mut text, 20, micros / 10_000);
            put_pair(&mut text, 22, micros / 100 % 100);
            put_pair(&mut text, 24, micros % 100);
            out.extend_from_slice(&text);
        }
        None => {
            out.extend_from_slice(&text[..19]);
            out.extend_from_slice(b"+00:00");
        }
    }
}

/// Seconds since 1970, and microseconds if there is a fraction.
fn time(text: &[u8]) -> Option<(u64, Option<u64>)> {
    let has_fraction = match text.len() {
        25 => false,
        32 => text[19] == b'.',
        _ => return None,
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|&(at, mark)| text[at] != mark)
        || !text.ends_with(b"+00:00")
        || (text.len() == 32) != has_fraction
    {
        return None;
    }
    let year = pair(text, 0)? * 100 + pair(text, 2)?;
    let (month, day) = (pair(text, 5)?, pair(text, 8)?);
    let (hour, minute, second) = (pair(text, 11)?, pair(text, 14)?, pair(text, 17)?);
    let is_date = (1970..2500).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_of(year, month, day);
    if civil(days) != (year, month, day) {
        return None; // 30 February
    }
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    let micros = match has_fraction {
        true => Some(pair(text, 20)? * 10_000 + pair(text, 22)? * 100 + pair(text, 24)?),
        false => None,
    };
    Some((seconds, micros))
}

/// Two digits.
fn pair(text: &[u8], at: usize) -> Option<u64> {
    let (high, low) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
    (high < 10 && low < 10).then_some(u64::from(high) * 10 + u64::from(low))
}

fn put_pair(text: &mut [u8; 32], at: usize, value: u64) {
    text[at] = b'0' + (value / 10) as u8;
    text[at + 1] = b'0' + (value % 10) as u8;
}

/// Days since 1970-01-01 of a date of the Gregorian calendar. Years begin in March here, so that the leap day is the last.
fn days_of(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - 719_468
}

/// The date of a day, the inverse of `days_of`.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn through(text: &str) -> Option<(String, usize)> {
        let (mut packed, mut out) = (Vec::new(), Vec::new());
        put_time(text.as_bytes(), &mut packed).then(|| {
            let mut rest = packed.as_slice();
            write_time(&mut rest, &mut out);
            assert!(rest.is_empty());
            (String::from_utf8(out).unwrap(), packed.len())
        })
    }

    #[test]
    fn times_come_back_from_five_to_seven_bytes() {
        for (text, len) in [
            ("2022-10-13T14:35:40+00:00", 5),
            ("2022-10-13T14:35:40.794000+00:00", 6),
            ("2022-10-13T14:35:40.000000+00:00", 6),
            ("2024-02-29T23:59:59.999999+00:00", 7),
            ("1970-01-01T00:00:00.000001+00:00", 7),
            ("2499-12-31T23:59:59.999999+00:00", 7),
        ] {
            assert_eq!(through(text), Some((text.to_owned(), len)));
        }
    }

    #[test]
    fn what_is_no_such_time_is_left_alone() {
        for text in [
            "2023-02-29T00:00:00+00:00",
            "2022-10-13T24:00:00+00:00",
            "2022-10-13T14:35:40.794000+01:00",
            "2022-10-13T14:35:40.794+00:00000",
            "2022-10-13 14:35:40+00:00",
            "2022-1a-13T14:35:40+00:00",
            "0000-00-00T00:00:00+00:00",
            "2022-10-13T14:35:40Z",
        ] {
            assert_eq!(through(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_have_no_leading_zero_and_fit() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for text in
            ["", "01", "18446744073709551616", "99999999999999999999", "1.0", "-1", "1a", "123456789012345678901"]
        {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn hex_is_lower_case_and_of_that_length() {
        assert_eq!(hex::<2>(b"00fe"), Some([0, 0xfe]));
        assert_eq!(hex::<2>(b"00FE"), None);
        assert_eq!(hex::<2>(b"00g0"), None);
        assert_eq!(hex::<2>(b"00fe0"), None);
    }

    proptest! {
        #[test]
        fn every_day_comes_back(days in 0_u64..190_000) {
            let (year, month, day) = civil(days);
            prop_assert_eq!(days_of(year, month, day), days);
        }

        #[test]
        fn leb_comes_back_and_leaves_the_rest(value in any::<u64>(), shift in 0_u32..64, rest in any::<u8>()) {
            let value = value >> shift;
            let mut out = Vec::new();
            put_leb(value, &mut out);
            out.push(rest);
            let mut bytes = out.as_slice();
            prop_assert_eq!(take_leb(&mut bytes), value);
            prop_assert_eq!(bytes, &[rest]);
        }

        #[test]
        fn numbers_and_hex_come_back(value in any::<u64>(), bytes in any::<[u8; 16]>()) {
            let mut out = Vec::new();
            write_number(value, &mut out);
            prop_assert_eq!(number(&out), Some(value));
            out.clear();
            write_hex(&bytes, &mut out);
            prop_assert_eq!(hex::<16>(&out), Some(bytes));
        }
    }
}

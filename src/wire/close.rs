//! Close codes of RFC 6455 and of Discord, and what each means for the session behind it.

#![forbid(unsafe_code)]

use std::fmt;

/// The status code of a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

/// What a shard does after Discord closed its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterClose {
    /// The session is kept: connect and RESUME.
    Resume,
    /// The session is gone: connect and IDENTIFY.
    Identify,
    /// Connecting again with these settings can only fail: stop this shard and say so.
    Fatal,
}

impl CloseCode {
    pub const NORMAL: Self = Self(1000);
    pub const GOING_AWAY: Self = Self(1001);
    pub const PROTOCOL_ERROR: Self = Self(1002);
    pub const POLICY_VIOLATION: Self = Self(1008);
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    pub const UNKNOWN_ERROR: Self = Self(4000);
    pub const UNKNOWN_OPCODE: Self = Self(4001);
    pub const DECODE_ERROR: Self = Self(4002);
    pub const NOT_AUTHENTICATED: Self = Self(4003);
    pub const AUTHENTICATION_FAILED: Self = Self(4004);
    pub const ALREADY_AUTHENTICATED: Self = Self(4005);
    pub const INVALID_SEQ: Self = Self(4007);
    pub const RATE_LIMITED: Self = Self(4008);
    pub const SESSION_TIMED_OUT: Self = Self(4009);
    pub const INVALID_SHARD: Self = Self(4010);
    pub const SHARDING_REQUIRED: Self = Self(4011);
    pub const INVALID_API_VERSION: Self = Self(4012);
    pub const INVALID_INTENTS: Self = Self(4013);
    pub const DISALLOWED_INTENTS: Self = Self(4014);
    /// Sent to Discord when we reconnect: any code but 1000 and 1001 keeps the session.
    pub const RECONNECTING: Self = Self(4900);

    /// 4009 is RESUMEd although the documentation says IDENTIFY: clients in the field do so, a dead session
    /// is answered with op 9, and a live one saves an IDENTIFY.
    ///
    /// Source: Discord, Opcodes and status codes › Gateway close event codes.
    pub fn after_upstream_close(self) -> AfterClose {
        match self.0 {
            4004 | 4010..=4014 => AfterClose::Fatal,
            4003 | 4006 | 4007 => AfterClose::Identify,
            _ => AfterClose::Resume,
        }
    }

    /// Whether a client that closes with this code has ended its session for good.
    ///
    /// Source: Discord, Gateway › Initiating a disconnect.
    pub fn ends_session(self) -> bool {
        matches!(self, Self::NORMAL | Self::GOING_AWAY)
    }

    /// Whether the code may stand in a close frame (RFC 6455 §7.4).
    pub fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_settings_cause_stop_a_shard() {
        let fatal: Vec<u16> =
            (0..=u16::MAX).filter(|&it| CloseCode(it).after_upstream_close() == AfterClose::Fatal).collect();
        assert_eq!(fatal, [4004, 4010, 4011, 4012, 4013, 4014]);
    }

    #[test]
    fn only_codes_that_deny_the_session_cost_an_identify() {
        let identify: Vec<u16> =
            (0..=u16::MAX).filter(|&it| CloseCode(it).after_upstream_close() == AfterClose::Identify).collect();
        assert_eq!(identify, [4003, 4006, 4007]);
    }

    #[test]
    fn a_client_ends_its_session_by_1000_and_1001_alone() {
        let ends: Vec<u16> = (0..=u16::MAX).filter(|&it| CloseCode(it).ends_session()).collect();
        assert_eq!(ends, [1000, 1001]);
    }

    #[test]
    fn codes_that_only_an_api_reports_may_not_be_sent() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, u16::MAX] {
            assert!(!CloseCode(code).is_sendable(), "{code}");
        }
        for code in [CloseCode::NORMAL, CloseCode::MESSAGE_TOO_BIG, CloseCode::DECODE_ERROR, CloseCode::RECONNECTING] {
            assert!(code.is_sendable(), "{code}");
        }
    }
}

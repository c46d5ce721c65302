//! The payload of a guild cut into its parts: the objects in its arrays become templates of their own.
//!
//! The text may have holes such as `@{g+2}`; it is cut by brackets and quotes, and nothing in it is judged.

use super::state::Part;

/// Keys of GUILD_CREATE that GUILD_UPDATE does not have.
///
/// Source: Discord, Gateway events › Guild create, extra fields.
const EXTRAS: [&str; 16] = [
    "members",
    "presences",
    "voice_states",
    "channels",
    "threads",
    "joined_at",
    "large",
    "member_count",
    "stage_instances",
    "guild_scheduled_events",
    "soundboard_sounds",
    "unavailable",
    "lazy",
    "application_command_counts",
    "embedded_activities",
    "guild_hashes",
];

/// The guild with its arrays emptied to a hole each, and the objects that lay in them, by `Part as usize`.
///
/// `guild` has its includes in it and no white space between tokens.
pub fn take_apart(guild: &str) -> (String, [Vec<String>; Part::ALL.len()]) {
    let mut base = <[Vec<String>; Part::ALL.len()]>::default();
    let members: Vec<String> = members(guild)
        .into_iter()
        .map(|(key, value)| match Part::ALL.into_iter().find(|it| it.key() == key) {
            Some(part) => {
                let objects = split(&value[1..value.len() - 1]);
                base[part as usize] = objects.into_iter().filter(|it| it.starts_with('{')).map(str::to_owned).collect();
                format!("\"{key}\":[@{{{key}}}]")
            }
            None => format!("\"{key}\":{value}"),
        })
        .collect();
    (format!("{{{}}}", members.join(",")), base)
}

/// The guild as GUILD_UPDATE carries it.
pub fn guild_update(guild: &str) -> String {
    let kept = members(guild).into_iter().filter(|it| !EXTRAS.contains(&it.0));
    let kept: Vec<String> = kept.map(|(key, value)| format!("\"{key}\":{value}")).collect();
    format!("{{{}}}", kept.join(","))
}

/// Keys, without quotes, and values of an object.
fn members(object: &str) -> Vec<(&str, &str)> {
    let pairs = split(&object[1..object.len() - 1]).into_iter();
    pairs.map(|it| it[1..].split_once("\":").expect("a key ends")).collect()
}

/// What stands between the commas that no bracket and no string encloses.
fn split(text: &str) -> Vec<&str> {
    let (mut pieces, mut begin, mut depth) = (Vec::new(), 0, 0);
    let (mut is_string, mut is_escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_string => is_escaped = true,
            b'"' => is_string = !is_string,
            _ if is_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => {
                pieces.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    if begin < text.len() {
        pieces.push(&text[begin..]);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_become_holes_and_their_objects_are_kept() {
        let guild = r#"{"id":"@{g}","roles":[{"id":"1","name":"a,]\""},{"id":"2","t":[1,2]}],"large":@{large},"x":[1,{"y":2}],"members":[@{members}]}"#;
        let (emptied, base) = take_apart(guild);
        assert_eq!(
            emptied,
            r#"{"id":"@{g}","roles":[@{roles}],"large":@{large},"x":[1,{"y":2}],"members":[@{members}]}"#
        );
        assert_eq!(base[Part::Roles as usize], [r#"{"id":"1","name":"a,]\""}"#, r#"{"id":"2","t":[1,2]}"#]);
        assert_eq!(guild_update(&emptied), r#"{"id":"@{g}","roles":[@{roles}],"x":[1,{"y":2}]}"#);
    }

    #[test]
    fn holes_within_an_array_are_no_objects() {
        let (_, base) = take_apart(r#"{"channels":[@{channels},{"id":"1"}]}"#);
        assert_eq!(base[Part::Channels as usize], [r#"{"id":"1"}"#]);
    }
}

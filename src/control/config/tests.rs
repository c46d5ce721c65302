//! The contract of the configuration, key by key.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::table::Otherwise;
use super::*;

const TOKEN: &str = "MTIzNDU2Nzg5.invented.c2VjcmV0";

fn read(text: &str) -> Result<(Config, Vec<Notice>), Refusal> {
    parse(text.as_bytes(), Environment::default())
}

/// Reads the text as a file of an environment that names no other. Its refusals come without the file's name.
fn parse(text: &[u8], environment: Environment) -> Result<(Config, Vec<Notice>), Refusal> {
    static FILES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = FILES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("shardgate-config-{}-{number}.json", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let loaded = load(Some(&path), &environment);
    std::fs::remove_file(&path).unwrap();
    let file = format!("{}: ", path.display());
    let bare = |refusal: Refusal| Refusal::of(refusal.to_string().strip_prefix(&file).unwrap_or("(no file)"));
    loaded.map(|it| (it.config, it.notices)).map_err(bare)
}

/// A configuration without file.
fn variables(variables: &[(&str, &str)]) -> Environment {
    let mut variables: Vec<_> = variables.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
    variables.sort();
    Environment { token: Some(TOKEN.into()), variables, ..Environment::default() }
}

fn line_of(environment: &Environment) -> String {
    load(None, environment).unwrap_err().to_string()
}

/// `more` is put beside a token and intents.
fn read_with(more: &str) -> Result<(Config, Vec<Notice>), Refusal> {
    read(&format!(r#"{{"token":"{TOKEN}","intents":513{}{more}}}"#, if more.is_empty() { "" } else { "," }))
}

fn config_with(more: &str) -> Config {
    read_with(more).unwrap().0
}

fn refusal_with(more: &str) -> String {
    read_with(more).unwrap_err().to_string()
}

#[test]
fn what_is_left_out_takes_the_default_of_the_contract() {
    let (config, notices) = read_with("").unwrap();
    assert_eq!(notices, []);
    assert_eq!(config.log_level, LevelFilter::INFO);
    assert_eq!((config.bind, config.port), ("0.0.0.0".parse().unwrap(), 7878));
    assert_eq!((config.shards, config.shard_start, config.shard_end), (None, None, None));
    assert_eq!(config.presence, None);
    assert!(config.validate_token && config.allow_compression);
    assert_eq!(config.twilight_http_proxy, None);
    assert_eq!(config.externally_accessible_url, "ws://localhost:7878");
    assert_eq!(config.cache, CacheFlags::default());
    assert_eq!(config.api_url, "https://discord.com/api/v10");
    assert_eq!((config.cores, config.backend), (CoresWanted::All, BackendWanted::Auto));
    assert_eq!(config.upstream_compression, Compression::Zstd);
    assert_eq!((config.data_dir, config.disk_bytes), (None, 4 << 30));
    assert_eq!((config.log_bytes, config.log_keep), (None, Duration::from_secs(300)));
    assert_eq!((config.identify_reserve, config.clients_max), (None, 16_384));
    assert_eq!(config.client_limits, ClientLimits::default());
    assert_eq!(config.memory_limit, None);
}

#[test]
fn the_limits_of_clients_and_identifys_are_keys() {
    let config = config_with(
        r#""identify_reserve":0,"clients_max":5,"client_handshake_seconds":2,"client_payloads_per_minute":120,
           "client_failed_resumes":3"#,
    );
    assert_eq!((config.identify_reserve, config.clients_max), (Some(0), 5));
    let wanted = ClientLimits { handshake: Duration::from_secs(2), payloads_per_minute: 120, failed_resumes: 3 };
    assert_eq!(config.client_limits, wanted);
    for (more, line) in [
        (r#""client_payloads_per_minute":119"#, "client_payloads_per_minute: found 119, wanted an integer from 120 to"),
        (r#""client_handshake_seconds":0"#, "client_handshake_seconds: found 0, wanted an integer from 1 to 600"),
        (r#""identify_reserve":-1"#, "identify_reserve: found -1, wanted an integer from 0 to 1000000"),
        (r#""clients_max":0"#, "clients_max: found 0, wanted an integer from 1 to"),
        (r#""client_failed_resumes":true"#, "client_failed_resumes: found true, wanted an integer from 1 to"),
    ] {
        assert!(refusal_with(more).starts_with(line), "{more}");
    }
}

#[test]
fn the_example_of_gateway_proxy_is_read_unchanged() {
    // Its config.example.json, with the token from the environment, since the example's is empty.
    let text = r#"{
    "log_level": "info",
    "token": "",
    "intents": 32511,
    "cache": {
        "channels": false, "presences": false, "emojis": false, "current_member": false, "members": false,
        "roles": false, "scheduled_events": false, "stage_instances": false, "stickers": false, "users": false,
        "voice_states": false
    }
}"#;
    let environment = Environment { token: Some(TOKEN.into()), ..Environment::default() };
    let (config, notices) = parse(text.as_bytes(), environment).unwrap();
    assert_eq!(notices, []);
    assert_eq!((config.token.secret(), config.intents), (TOKEN, 32511));
    assert!(!config.cache.channels && !config.cache.current_member && !config.cache.roles);
}

#[test]
fn the_readme_example_of_gateway_proxy_is_read_with_a_note_about_backpressure() {
    let more = r#""port":7878,"activity":{"type":0,"name":"on shard {{shard}} with kubernetes"},"status":"idle",
        "backpressure":100,"validate_token":true,"externally_accessible_url":"ws://localhost:7878","shards":null"#;
    let (config, notices) = read_with(more).unwrap();
    assert!(matches!(&notices[..], [Notice::Note(line)] if line.starts_with("`backpressure`")), "{notices:?}");
    assert!(config.presence.unwrap().contains("on shard {{shard}} with kubernetes"));
}

#[test]
fn the_token_loses_its_prefix_and_is_never_printed() {
    let config = read(&format!(r#"{{"token":"Bot {TOKEN}","intents":0}}"#)).unwrap().0;
    assert_eq!(config.token.secret(), TOKEN);
    assert!(!format!("{config:?}").contains("secret") && !format!("{config:?}").contains(TOKEN));
}

#[test]
fn the_token_in_the_file_goes_before_the_environment() {
    let environment = Environment { token: Some("other".into()), ..Environment::default() };
    let text = format!(r#"{{"token":"{TOKEN}","intents":0}}"#);
    assert_eq!(parse(text.as_bytes(), environment).unwrap().0.token.secret(), TOKEN);
}

#[test]
fn a_token_that_cannot_be_one_is_refused_without_being_shown() {
    for (text, start) in [
        (r#"{"intents":0}"#, "token: found nothing, wanted"),
        (r#"{"token":"","intents":0}"#, "token: found an empty string, wanted"),
        (r#"{"token":null,"intents":0}"#, "token: found null, wanted"),
        (r#"{"token":735537555,"intents":0}"#, "token: found a number, wanted"),
        (r#"{"token":"hush hush","intents":0}"#, "token: found another string, wanted"),
        (r#"{"token":"hush\nhush","intents":0}"#, "token: found another string, wanted"),
    ] {
        let line = read(text).unwrap_err().to_string();
        assert!(line.starts_with(start), "{text} gave {line}");
        assert!(!line.contains("hush") && !line.contains("735537555"), "{line}");
    }
}

#[test]
fn each_key_refuses_what_is_not_of_its_type_or_range() {
    for (more, start) in [
        (r#""log_level":"loud""#, "log_level: found \"loud\", wanted one of"),
        (r#""log_level":3"#, "log_level: found 3, wanted one of"),
        (r#""port":65536"#, "port: found 65536, wanted an integer from 0 to 65535"),
        (r#""port":null"#, "port: found null, wanted an integer"),
        (r#""shards":0"#, "shards: found 0, wanted an integer from 1 to"),
        (r#""shards":"4""#, "shards: found \"4\", wanted an integer"),
        (r#""shard_start":-1"#, "shard_start: found -1, wanted an integer"),
        (r#""status":"away""#, "status: found \"away\", wanted one of"),
        (r#""activity":[]"#, "activity: found a list, wanted an object"),
        (r#""backpressure":"much""#, "backpressure: found \"much\", wanted an integer"),
        (r#""validate_token":"yes""#, "validate_token: found \"yes\", wanted true or false"),
        (r#""twilight_http_proxy":"http://x""#, "twilight_http_proxy: found \"http://x\", wanted host:port"),
        (r#""externally_accessible_url":"x""#, "externally_accessible_url: found \"x\", wanted a URL"),
        (r#""cache":true"#, "cache: found true, wanted an object"),
        (r#""cache":{"roles":1}"#, "cache.roles: found 1, wanted true or false"),
        (r#""allow_compression":1"#, "allow_compression: found 1, wanted true or false"),
        (r#""disable_compression":0"#, "disable_compression: found 0, wanted true or false"),
        (r#""bind":"localhost""#, "bind: found \"localhost\", wanted an IP address"),
        (r#""admin_bind":"127.0.0.1""#, "admin_bind: found \"127.0.0.1\", wanted an IP address and a port"),
        (r#""admin_bind":7879"#, "admin_bind: found 7879, wanted an IP address and a port"),
        (r#""api_url":"discord.com""#, "api_url: found \"discord.com\", wanted an http://"),
        (r#""cores":0"#, "cores: found 0, wanted a number of cores"),
        (r#""cores":[]"#, "cores: found a list, wanted a number of cores"),
        (r#""cores":[1,1]"#, "cores: found a list, wanted a number of cores"),
        (r#""backend":"uring""#, "backend: found \"uring\", wanted one of \"auto\", \"io_uring\", \"epoll\""),
        (r#""upstream_compression":"gzip""#, "upstream_compression: found \"gzip\", wanted one of"),
        (
            r#""data_dir":"does/not/exist""#,
            "data_dir: found \"does/not/exist\", wanted a directory that exists and can be written",
        ),
        (r#""disk_bytes":1000"#, "disk_bytes: found 1000, wanted an integer from 268435456"),
        (r#""log_bytes":1000"#, "log_bytes: found 1000, wanted an integer from 1048576"),
        (r#""log_seconds":0"#, "log_seconds: found 0, wanted an integer from 1"),
    ] {
        let line = refusal_with(more);
        assert!(line.starts_with(start), "{more} gave {line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

#[test]
fn intents_are_required() {
    let line = read(&format!(r#"{{"token":"{TOKEN}"}}"#)).unwrap_err().to_string();
    assert!(line.starts_with("intents: found nothing, wanted an integer"), "{line}");
    let line = read(&format!(r#"{{"token":"{TOKEN}","intents":"all"}}"#)).unwrap_err().to_string();
    assert!(line.starts_with("intents: found \"all\", wanted an integer"), "{line}");
    let line = read(&format!(r#"{{"token":"{TOKEN}","intent":513}}"#)).unwrap_err().to_string();
    let hint = "(unknown key `intent` is ignored; the nearest known key is `intents`)";
    assert!(line.starts_with("intents: found nothing") && line.ends_with(hint), "{line}");
    let line = read(r#"{"tokn":"x","intents":513}"#).unwrap_err().to_string();
    let hint = "(unknown key `tokn` is ignored; the nearest known key is `token`)";
    assert!(line.starts_with("token: found nothing") && line.ends_with(hint), "{line}");
}

#[test]
fn a_range_of_shards_lies_within_the_shards() {
    let config = config_with(r#""shards":4,"shard_start":1,"shard_end":4"#);
    assert_eq!((config.shards, config.shard_start, config.shard_end), (Some(4), Some(1), Some(4)));
    assert_eq!(refusal_with(r#""shards":4,"shard_end":5"#), "shard_end: found 5, wanted an integer from 1 to 4");
    assert_eq!(refusal_with(r#""shards":4,"shard_start":4"#), "shard_start: found 4, wanted an integer from 0 to 3");
    let line = refusal_with(r#""shard_start":3,"shard_end":3"#);
    assert_eq!(line, "shard_start: found 3, wanted an integer from 0 to 2");
}

#[test]
fn a_cache_flag_left_out_of_a_given_object_takes_its_default() {
    let cache = config_with(r#""cache":{"roles":false,"members":true}"#).cache;
    assert_eq!(cache, CacheFlags { roles: false, members: true, ..CacheFlags::default() });
}

#[test]
fn each_cache_key_switches_its_own_flag() {
    let names: Vec<_> = table::keys().filter_map(|key| key.name.strip_prefix("cache.")).collect();
    assert_eq!(names.len(), 11);
    for key in &names {
        let all_but = |value: bool| {
            let keys: Vec<_> =
                names.iter().map(|it| format!("\"{it}\":{}", if it == key { value } else { !value })).collect();
            let keys = keys.join(",");
            format!("{:?}", config_with(&format!(r#""cache":{{{keys}}}"#)).cache)
        };
        assert!(all_but(true).contains(&format!(" {key}: true")), "{key}");
        assert_eq!(all_but(true).matches("true").count(), 1, "{key}");
        assert_eq!(all_but(false).matches("false").count(), 1, "{key}");
    }
}

#[test]
fn the_key_of_forks_disables_compression_and_a_contradiction_is_told() {
    assert!(!config_with(r#""disable_compression":true"#).allow_compression);
    assert!(config_with(r#""disable_compression":false"#).allow_compression);
    let (config, notices) = read_with(r#""allow_compression":true,"disable_compression":true"#).unwrap();
    assert!(config.allow_compression);
    assert!(matches!(&notices[..], [Notice::Warning(line)] if line.contains("contradict")));
}

#[test]
fn an_unknown_key_is_one_warning_with_the_nearest_known_key() {
    let (_, notices) = read_with(r#""shard":4,"cache":{"member":true}"#).unwrap();
    let expected = [
        "unknown key `cache.member` is ignored; the nearest known key is `cache.members`",
        "unknown key `shard` is ignored; the nearest known key is `shards`",
    ];
    assert_eq!(notices, expected.map(|line| Notice::Warning(line.into())));
}

#[test]
fn broken_json_is_told_with_line_and_column() {
    let line = read("{\n  \"token\": \"x\"\n  \"intents\": 1\n}").unwrap_err().to_string();
    assert_eq!(line, "line 3, column 3: not JSON: expected `,` or `}`");
    assert!(read("").unwrap_err().to_string().starts_with("line 1, column 0: not JSON"));
    assert!(read("[1]").unwrap_err().to_string().contains("not an object"));
    assert!(parse(b"{\"token\":\"\xff\"}", Environment::default()).is_err());
}

#[test]
fn a_byte_order_mark_is_no_mistake() {
    let text = format!("\u{feff}{{\"token\":\"{TOKEN}\",\"intents\":1}}");
    assert_eq!(read(&text).unwrap().0.intents, 1);
}

#[test]
fn the_default_url_follows_the_port() {
    assert_eq!(config_with(r#""port":8000"#).externally_accessible_url, "ws://localhost:8000");
}

#[test]
fn an_egress_proxy_is_read_and_its_password_not_shown() {
    let config = config_with(r#""egress_proxy":"http://user:hush@proxy:3128""#);
    assert_eq!(config.egress_proxy.as_ref().unwrap().to_string(), "http://proxy:3128");
    assert!(!format!("{config:?}").contains("hush"));
    let line = refusal_with(r#""egress_proxy":"http://user:hush@proxy""#);
    assert!(
        line.starts_with("egress_proxy: found a string, wanted \"http://") && line.ends_with("no port from 1 to 65535")
    );
    assert!(config_with(r#""egress_proxy":null"#).egress_proxy.is_none());
}

#[test]
fn a_certificate_and_its_key_go_together_and_change_the_default_url() {
    let config = config_with(r#""tls_cert":"c.pem","tls_key":"k.pem","port":8000"#);
    assert_eq!(config.externally_accessible_url, "wss://localhost:8000");
    let files = config.tls.unwrap();
    assert_eq!((files.cert, files.key, files.client_ca), ("c.pem".into(), "k.pem".into(), None));
    assert!(refusal_with(r#""tls_cert":"c.pem""#).starts_with("tls_key: found nothing, wanted "));
    assert!(refusal_with(r#""tls_key":"k.pem""#).starts_with("tls_cert: found nothing, wanted "));
    assert!(refusal_with(r#""tls_client_ca":"ca.pem""#).starts_with("tls_cert: found nothing, wanted "));
}

#[test]
fn an_admin_key_is_long_enough_and_not_shown() {
    assert!(config_with(r#""admin_key":"hush-hush-hush-hush""#).admin_key.is_some());
    let line = refusal_with(r#""admin_key":"hush""#);
    assert_eq!(line, "admin_key: found a string, wanted a key of at least 16 printable characters without white space");
}

/// As after a first try as root: the directory is ours, a file in it is not.
#[test]
fn a_file_of_another_user_in_the_data_directory_refuses_the_start() {
    let path = std::env::temp_dir().join(format!("shardgate-of-another-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("notes"), "").unwrap();
    let permit = |name: &str, mode| std::fs::set_permissions(path.join(name), Permissions::from_mode(mode)).unwrap();
    permit("", 0o777);
    permit("notes", 0);
    let read = || {
        // Root may read everything; a thread can be somebody else.
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::thread::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        read_with(&format!(r#""data_dir":"{}""#, path.display())).map(|_| ())
    };
    let read_as_another = || std::thread::scope(|scope| scope.spawn(read).join().unwrap());
    assert_eq!(read_as_another(), Ok(()), "a file that is not the proxy's");
    for name in ["lock", "identity", "wal-1"] {
        std::fs::write(path.join(name), "").unwrap();
        permit(name, 0);
        let line = read_as_another().unwrap_err().to_string();
        assert!(
            line.starts_with(&format!("data_dir: found {}/{name}, wanted files that user ", path.display())),
            "{line}"
        );
        std::fs::remove_file(path.join(name)).unwrap();
    }
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn two_listeners_at_one_address_are_refused() {
    for (bind, admin) in [("0.0.0.0", "127.0.0.1:7878"), ("127.0.0.1", "0.0.0.0:7878"), ("127.0.0.1", "127.0.0.1:7878")]
    {
        let line = refusal_with(&format!(r#""bind":"{bind}","admin_bind":"{admin}""#));
        assert_eq!(line, format!("admin_bind: found {admin}, wanted another port than `port` (7878)"));
    }
    for (bind, admin) in [("127.0.0.1", "127.0.0.2:7878"), ("0.0.0.0", "127.0.0.1:0"), ("0.0.0.0", "127.0.0.1:7879")] {
        read_with(&format!(r#""bind":"{bind}","admin_bind":"{admin}""#)).unwrap();
    }
}

#[test]
fn who_only_asks_needs_neither_token_nor_intents_nor_good_values_of_other_keys() {
    let environment = variables(&[("SHARDGATE_PORT", "7000"), ("SHARDGATE_SHARDS", "many")]);
    let environment = Environment { token: None, ..environment };
    let loaded = load_some(None, &environment, &[], &["port"]).unwrap();
    assert_eq!((loaded.config.port, loaded.config.intents), (7000, 0));
    assert!(load_some(None, &environment, &[], &["port", "shards"]).is_err());
}

#[test]
fn a_data_directory_that_anybody_may_write_to_is_accepted_with_a_warning() {
    let path = std::env::temp_dir().join(format!("shardgate-open-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    for (mode, warned) in [(0o700, false), (0o755, false), (0o777, true)] {
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let (_, notices) = read_with(&format!(r#""data_dir":"{}""#, path.display())).unwrap();
        let is_warned = matches!(&notices[..], [Notice::Warning(line)] if line.contains("chmod 700"));
        assert_eq!((is_warned, notices.is_empty()), (warned, !warned), "{mode:o}");
    }
    std::fs::remove_dir(path).unwrap();
}

#[test]
fn a_data_directory_is_accepted_without_a_word() {
    let (config, notices) = read_with(r#""data_dir":".","disk_bytes":1073741824"#).unwrap();
    assert_eq!((config.data_dir, config.disk_bytes), (Some(PathBuf::from(".")), 1 << 30));
    assert_eq!(notices, []);
}

#[test]
fn cores_are_a_number_or_a_list() {
    assert_eq!(config_with(r#""cores":2"#).cores, CoresWanted::Count(2));
    assert_eq!(config_with(r#""cores":[3,0]"#).cores, CoresWanted::List(vec![3, 0]));
}

#[test]
fn the_text_comes_from_the_environment_when_it_begins_with_a_brace() {
    let json = format!(r#" {{"token":"{TOKEN}","intents":7}}"#);
    let loaded = load(None, &Environment { config: Some(json), ..Environment::default() }).unwrap();
    assert_eq!((loaded.config.intents, loaded.source.as_str()), (7, "CONFIG"));
}

#[test]
fn else_the_environment_names_a_file_and_the_command_line_goes_before_it() {
    let environment = Environment { config: Some("named/by/environment.json".into()), ..Environment::default() };
    let line = load(None, &environment).unwrap_err().to_string();
    assert!(line.starts_with("named/by/environment.json: found "), "{line}");
    let line = load(Some(Path::new("named/by/argument.json")), &environment).unwrap_err().to_string();
    assert!(line.starts_with("named/by/argument.json: found "), "{line}");
}

#[test]
fn the_defaults_of_the_table_are_those_of_the_code() {
    let bare = format!("{:?}", config_with(""));
    for key in table::keys() {
        let Otherwise::Value(json) = key.otherwise else { continue };
        let more = match key.name.split_once('.') {
            Some((group, name)) => format!(r#""{group}":{{"{name}":{json}}}"#),
            None => format!(r#""{}":{json}"#, key.name),
        };
        // A status of its own makes a presence, even the default one.
        if key.name != "status" {
            assert_eq!(format!("{:?}", config_with(&more)), bare, "{}", key.name);
        }
    }
}

#[test]
fn no_two_keys_share_a_name_a_variable_or_a_flag() {
    let names: Vec<_> = table::keys().map(|key| key.name).chain(table::groups()).collect();
    for of in [table::variable, table::flag] {
        let mut all: Vec<_> = names.iter().map(|name| of(name)).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), names.len());
    }
}

#[test]
fn each_key_says_what_it_means_in_a_sentence() {
    for key in table::keys() {
        assert!(key.meaning.ends_with('.') && !key.meaning.contains(['|', '\n']), "{}", key.name);
    }
}

#[test]
fn with_variables_alone_no_file_is_needed() {
    let loaded = load(
        None,
        &variables(&[
            ("SHARDGATE_INTENTS", "513"),
            ("SHARDGATE_BIND", "::1"),
            ("SHARDGATE_CACHE", r#"{"members":true,"roles":false}"#),
            ("SHARDGATE_CACHE_ROLES", "true"),
            ("SHARDGATE_ACTIVITY", r#"{"name":"chess"}"#),
            ("SHARDGATE_CORES", "[1,0]"),
            ("SHARDGATE_SHARDS", ""),
        ]),
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!((config.intents, config.bind.to_string().as_str(), config.token.secret()), (513, "::1", TOKEN));
    assert!(config.cache.members && config.cache.roles && config.presence.unwrap().contains("chess"));
    assert_eq!((config.cores, config.shards), (CoresWanted::List(vec![1, 0]), None));
    assert_eq!((loaded.notices, loaded.source.as_str()), (vec![], "no file: environment and flags"));
}

#[test]
fn a_flag_goes_before_a_variable_and_that_before_the_file() {
    let json = format!(r#"{{"token":"{TOKEN}","intents":1,"port":1,"shards":1,"log_seconds":1}}"#);
    let mut environment = variables(&[("SHARDGATE_PORT", "2"), ("SHARDGATE_SHARDS", "2")]);
    environment.config = Some(json);
    let config = load_with(None, &environment, &[("shards", "3".into())]).unwrap().config;
    assert_eq!((config.log_keep.as_secs(), config.port, config.shards), (1, 2, Some(3)));
}

#[test]
fn a_refusal_names_the_place_the_value_is_from() {
    for (name, text, line) in [
        ("SHARDGATE_PORT", "x", "SHARDGATE_PORT: found \"x\", wanted an integer from 0 to 65535"),
        ("SHARDGATE_VALIDATE_TOKEN", "yes", "SHARDGATE_VALIDATE_TOKEN: found \"yes\", wanted true or false"),
        ("SHARDGATE_CACHE_ROLES", "1", "SHARDGATE_CACHE_ROLES: found 1, wanted true or false"),
        ("SHARDGATE_CACHE", "all", "SHARDGATE_CACHE: found \"all\", wanted an object"),
        ("SHARDGATE_ACTIVITY", r#"{"type":1}"#, "SHARDGATE_ACTIVITY.name: found nothing, wanted the text to show"),
        ("SHARDGATE_SHARD_START", "70000", "SHARDGATE_SHARD_START: found 70000, wanted an integer from 0 to 65536"),
        ("SHARDGATE_EGRESS_PROXY", "http://u:hush@x", "SHARDGATE_EGRESS_PROXY: found a string, wanted \"http://"),
    ] {
        let told = line_of(&variables(&[("SHARDGATE_INTENTS", "1"), (name, text)]));
        assert!(told.starts_with(line), "{told}");
    }
    let line = load_with(None, &variables(&[("SHARDGATE_INTENTS", "1")]), &[("port", "x".into())]).unwrap_err();
    assert_eq!(line.to_string(), "--port: found \"x\", wanted an integer from 0 to 65535");
    assert!(line_of(&variables(&[("SHARDGATE_PORT", "1")])).starts_with("intents: found nothing, wanted an integer"));
}

#[test]
fn an_unknown_variable_is_a_warning_and_what_kubernetes_sets_is_none() {
    let link = [
        ("SHARDGATE_INTENTS", "1"),
        ("SHARDGATE_PORT", "tcp://10.0.0.1:7878"),
        ("SHARDGATE_PORT_7878_TCP", "tcp://10.0.0.1:7878"),
        ("SHARDGATE_SERVICE_HOST", "10.0.0.1"),
        ("SHARDGATE_SERVICE_PORT", "7878"),
        ("SHARDGATE_PODS_SERVICE_PORT_HTTP", "7878"),
        ("SHARDGATE_PODS_PORT", "tcp://10.0.0.2:7878"),
    ];
    let loaded = load(None, &variables(&link)).unwrap();
    assert_eq!(loaded.config.port, 7878);
    assert!(matches!(&loaded.notices[..], [Notice::Note(line)] if line.contains("enableServiceLinks")));
    let loaded = load(None, &variables(&[("SHARDGATE_INTENTS", "1"), ("SHARDGATE_PROT", "1")])).unwrap();
    let line = "unknown variable `SHARDGATE_PROT` is ignored; the nearest known key is `SHARDGATE_PORT`";
    assert_eq!(loaded.notices, [Notice::Warning(line.into())]);
}

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("shardgate-token-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_token_may_stand_in_a_file() {
    let folder = Folder::new("file");
    let path = folder.file("hidden", &format!("Bot {TOKEN}\n"), 0o600);
    let loaded = load(None, &variables(&[("SHARDGATE_INTENTS", "1"), ("SHARDGATE_TOKEN_FILE", &path)])).unwrap();
    assert_eq!((loaded.config.token.secret(), &loaded.token_source), (TOKEN, &path));
    assert_eq!(loaded.notices, []);
    let path = folder.file("open", TOKEN, 0o644);
    let (config, notices) = read(&format!(r#"{{"intents":1,"token_file":"{path}"}}"#)).unwrap();
    assert_eq!(config.token.secret(), TOKEN);
    assert!(matches!(&notices[..], [Notice::Warning(line)] if line.contains("can be read by every user")));
    for (text, found) in [("", "an empty file"), ("hush hush", "another text"), ("\n", "an empty file")] {
        let path = folder.file("bad", text, 0o600);
        let line = read(&format!(r#"{{"intents":1,"token_file":"{path}"}}"#)).unwrap_err().to_string();
        assert!(line.starts_with(&format!("token_file: {path}: found {found}, wanted ")), "{line}");
        assert!(!line.contains("hush"));
    }
    let token = format!("{TOKEN}{TOKEN}").replacen('.', "", 2);
    let line = read(&format!(r#"{{"intents":1,"token_file":"{token}"}}"#)).unwrap_err().to_string();
    assert_eq!(line, "token_file: found what looks like a token, wanted the path of a file with the token");
    let line = read(r#"{"intents":1,"token_file":"not/there"}"#).unwrap_err().to_string();
    assert!(line.starts_with("token_file: not/there: found No such file"), "{line}");
}

#[test]
fn credentials_and_secrets_count_only_when_nothing_else_gives_a_token() {
    let folder = Folder::new("secrets");
    let (systemd, docker) =
        (folder.file("token", "of-systemd", 0o400), folder.file("shardgate_token", "of-docker", 0o444));
    let mut environment = variables(&[("SHARDGATE_INTENTS", "1")]);
    environment.secrets = Some(folder.0.clone());
    assert_eq!(load(None, &environment).unwrap().token_source, "TOKEN");
    environment.token = None;
    let loaded = load(None, &environment).unwrap();
    assert_eq!((loaded.config.token.secret(), &loaded.token_source), ("of-docker", &docker));
    assert_eq!(loaded.notices, [Notice::Note(format!("the token is the one in {docker}"))]);
    environment.credentials = Some(folder.0.clone());
    let loaded = load(None, &environment).unwrap();
    assert_eq!((loaded.config.token.secret(), &loaded.token_source), ("of-systemd", &systemd));
    environment.variables.push(("SHARDGATE_TOKEN".into(), "of-variable".into()));
    assert_eq!(load(None, &environment).unwrap().config.token.secret(), "of-variable");
}

#[test]
fn of_token_and_token_file_the_one_from_further_ahead_counts() {
    let folder = Folder::new("both");
    let path = folder.file("token", "of-file", 0o600);
    let token = |flags: &[FlagValue]| {
        let json = r#"{"token":"of-config","intents":1}"#.to_owned();
        let environment = Environment { config: Some(json), ..Environment::default() };
        load_with(None, &environment, flags).unwrap()
    };
    assert_eq!(token(&[("token_file", path.clone())]).config.token.secret(), "of-file");
    let both = token(&[("token_file", path), ("token", "of-flag".into())]);
    assert_eq!((both.config.token.secret(), both.token_source.as_str()), ("of-flag", "--token"));
    assert_eq!(both.notices.len(), 2, "{:?}", both.notices);
}

#[test]
fn a_file_that_may_not_be_read_is_told_with_who_must_be_able_to() {
    let user = rustix::process::geteuid().as_raw();
    let line = sources::unreadable(&std::io::ErrorKind::PermissionDenied.into());
    assert!(
        line.contains(&format!("user {user}")) && line.ends_with(&format!("remedy: `chown {user}` the file")),
        "{line}"
    );
    assert_eq!(sources::unreadable(&std::io::Error::from_raw_os_error(2)), "No such file or directory (os error 2)");
}

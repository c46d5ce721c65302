//! `loadtest memory`: what the cached state costs, as a table.
//!
//! The same proxy with no guilds, with guilds and every cache flag off, with guilds that hold nobody but the bot, and with
//! all; the last two again after every object was replaced once. What a guild costs is what the third has over the first, what
//! a member costs (with its share of presences and voice states) what the fourth has over the third. Each has had traffic before it is
//! measured: the decoders' windows belong to the connections, not to the guilds that came through them first.

use std::io;
use std::path::Path;

use super::options::Options;
use super::pages::{self, Metrics};
use super::stage::{binary, caught_up, machine, mib, settled_rss, start_proxy};
use crate::run::fake::Fake;
use crate::run::in_temp_dir;

/// Targets for the default size.
const MEMBER_BYTES: f64 = 150.0;
const MEMBER_REPLACED_BYTES: f64 = 175.0;
const GUILD_BYTES: f64 = 6.0 * 1024.0;
const GUILD_OFF_BYTES: f64 = 1024.0;
const RSS_MIB: f64 = 250.0;

/// The kinds of `shardgate_cache_bytes` and the gauge that counts their objects.
const KINDS: [(&str, Option<&str>); 9] = [
    ("members", Some("gateway_cache_members")),
    ("presences", Some("gateway_cache_presences")),
    ("voice_states", Some("gateway_cache_voice_states")),
    ("roles", Some("gateway_cache_roles")),
    ("channels", Some("gateway_cache_channels")),
    ("emojis", Some("gateway_cache_emojis")),
    ("other", Some("gateway_cache_guilds")),
    ("ready", None),
    ("shapes", None),
];

/// What every shard is sent before it is measured, so that the decoders' windows are full in each state alike: 64 events of 16 KiB.
const WARMING_EVENTS: usize = 64;
const WARMING_BYTES: usize = 16 * 1024;

/// One state of the proxy.
struct Measured {
    rss: u64,
    metrics: Metrics,
}

/// The four proxies, and two of them again after every object was replaced.
struct Figures {
    empty: Measured,
    off: Measured,
    alone: Measured,
    alone_replaced: Measured,
    full: Measured,
    full_replaced: Measured,
}

/// Measures, prints the table, and answers whether the targets were met, which only `--judge` asks for.
pub async fn run(options: Options) -> io::Result<bool> {
    in_temp_dir(async |dir| measured(&options, dir).await).await
}

async fn measured(options: &Options, dir: &Path) -> io::Result<bool> {
    let binary = binary(options).await?;
    let with = |guilds, members| Options { guilds, members, ..options.clone() };
    let [empty, _] = measure(&with(0, 2), &binary, &dir.join("empty"), true, false).await?;
    let [off, _] = measure(options, &binary, &dir.join("off"), false, false).await?;
    let [alone, alone_replaced] = measure(&with(options.guilds, 1), &binary, &dir.join("alone"), true, true).await?;
    let [full, full_replaced] = measure(options, &binary, &dir.join("full"), true, true).await?;
    let missing = || io::Error::other("a state was not measured");
    let figures = Figures {
        empty: empty.ok_or_else(missing)?,
        off: off.ok_or_else(missing)?,
        alone: alone.ok_or_else(missing)?,
        alone_replaced: alone_replaced.ok_or_else(missing)?,
        full: full.ok_or_else(missing)?,
        full_replaced: full_replaced.ok_or_else(missing)?,
    };
    let (text, are_met) = figures.report(options);
    print!("{text}");
    Ok(are_met || !options.is_judged)
}

/// The proxy once it has its guilds, and once every object was replaced if that is wanted.
async fn measure(
    options: &Options,
    binary: &Path,
    dir: &Path,
    is_caching: bool,
    replaces: bool,
) -> io::Result<[Option<Measured>; 2]> {
    std::fs::create_dir_all(dir)?;
    let fake = Fake::start_with(options.discord_words(), dir).await?;
    let mut proxy = start_proxy(options, binary, &fake, dir, is_caching).await?;
    let mut measured = [None, None];
    for (at, slot) in measured.iter_mut().enumerate() {
        if at == 1 {
            if !replaces {
                break;
            }
            fake.post("replace").await?;
        }
        caught_up(&fake, &mut proxy, 0).await?;
        warm(&fake).await?;
        caught_up(&fake, &mut proxy, 0).await?;
        let rss = settled_rss(options, &proxy).await?;
        *slot = Some(Measured { rss, metrics: pages::metrics(&proxy.url).await? });
    }
    proxy.process.stop().await;
    fake.process.stop().await;
    Ok(measured)
}

/// Lets bytes flow that no state keeps: a proxy's connections cost what they cost in use, with guilds and without.
async fn warm(fake: &Fake) -> io::Result<()> {
    for event in 0..WARMING_EVENTS {
        let words: String =
            (0..WARMING_BYTES / 8).map(|n| format!("{:07x} ", n * 2_654_435_761 * (event + 1) % (1 << 28))).collect();
        fake.post_body("emit", &format!("{{\"t\":\"MESSAGE_CREATE\",\"d\":{{\"content\":\"{words}\"}}}}")).await?;
    }
    Ok(())
}

impl Figures {
    /// The tables in Markdown, and whether the targets were met.
    fn report(&self, options: &Options) -> (String, bool) {
        let guilds = f64::from(options.shards) * f64::from(options.guilds);
        // The bot's own member is counted with the guild.
        let members = guilds * f64::from(options.members - 1);
        let over = |a: &Measured, b: &Measured| a.rss as f64 - b.rss as f64;
        let guild = over(&self.alone, &self.empty) / guilds;
        let guild_replaced = over(&self.alone_replaced, &self.empty) / guilds;
        let guild_off = over(&self.off, &self.empty) / guilds;
        let member = over(&self.full, &self.alone) / members;
        let member_replaced = over(&self.full_replaced, &self.alone_replaced) / members;
        let mut text = format!(
            "{} shards × {} guilds × {} members, {} channels, {} roles, {} emojis a guild, {} of the members online, {} in voice\n{}\n\n",
            options.shards,
            options.guilds,
            options.members,
            options.channels + 4,
            options.roles + 5,
            options.emojis + 2,
            options.presence_share,
            options.voice_share,
            machine()
        );
        text += "| state | RSS, MiB | over no guilds, MiB | per guild, bytes | per member with its share, bytes |\n|---|---|---|---|---|\n";
        for (name, measured, guild, member) in [
            ("no guilds", &self.empty, None, None),
            ("guilds, all flags off", &self.off, Some(guild_off), None),
            ("guilds, the bot alone in them", &self.alone, Some(guild), None),
            ("the same, every object replaced once", &self.alone_replaced, Some(guild_replaced), None),
            ("guilds with members, all flags on", &self.full, None, Some(member)),
            ("the same, every object replaced once", &self.full_replaced, None, Some(member_replaced)),
        ] {
            let number = |it: Option<f64>| it.map_or(String::new(), |it| format!("{it:.0}"));
            let over = mib(measured.rss) - mib(self.empty.rss);
            let (guild, member) = (number(guild), number(member));
            text += &format!("| {name} | {:.1} | {over:.1} | {guild} | {member} |\n", mib(measured.rss));
        }
        text +=
            "\n| kind | objects | bytes held | per object | per object after replacement |\n|---|---|---|---|---|\n";
        for (kind, gauge) in KINDS {
            let bytes = |it: &Measured| it.metrics.sum(&format!("shardgate_cache_bytes{{kind=\"{kind}\"}}"));
            let objects = gauge.map(|it| self.full.metrics.sum(it)).filter(|it| *it > 0.0);
            let per = |it: &Measured| objects.map_or(String::new(), |objects| format!("{:.1}", bytes(it) / objects));
            text += &format!(
                "| {kind} | {} | {:.0} | {} | {} |\n",
                objects.map_or(String::new(), |it| format!("{it:.0}")),
                bytes(&self.full),
                per(&self.full),
                per(&self.full_replaced)
            );
        }
        text += &format!(
            "\nOf what is held, packed objects: {:.1} MiB\n\n",
            self.full.metrics.sum("shardgate_cache_packed_bytes") / 1048576.0
        );
        let mut are_met = true;
        for (what, found, wanted) in [
            ("bytes per member", member, MEMBER_BYTES),
            ("bytes per member after replacement", member_replaced, MEMBER_REPLACED_BYTES),
            ("bytes per guild", guild, GUILD_BYTES),
            ("bytes per guild with all flags off", guild_off, GUILD_OFF_BYTES),
            ("MiB in all", mib(self.full.rss), RSS_MIB),
        ] {
            let is_met = found <= wanted;
            are_met &= is_met;
            text += &format!("{} {what}: {found:.0}, at most {wanted:.0}\n", if is_met { "ok    " } else { "MISSED" });
        }
        (text, are_met)
    }
}

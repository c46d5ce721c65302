//! What `life` tells is JSON of the right guild, and the guilds stay whole.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::world::Size;
use super::*;

fn world() -> World {
    World::new(Size { shards: 2, guilds: 3, members: 12, big_guild: 0, outage_every: 2, ..Size::default() })
}

fn guild(world: &World, index: u32) -> Value {
    let mut out = Vec::new();
    world.guild(0, index, &mut out);
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn every_event_is_valid_json_and_every_kind_happens() {
    let (mut world, mut rng) = (world(), Rng::with_seed(1));
    let mut seen = BTreeMap::<&str, u32>::new();
    for _ in 0..6000 {
        let (name, d) = world.live(0, &mut rng).unwrap();
        let d: Value = serde_json::from_str(&d).unwrap_or_else(|it| panic!("{name}: {it}: {d}"));
        let id = if matches!(name, "GUILD_CREATE" | "GUILD_DELETE" | "GUILD_UPDATE") { "id" } else { "guild_id" };
        assert_eq!(world.find_guild(d[id].as_str().unwrap().parse().unwrap()).unwrap().0, 0, "{name}");
        *seen.entry(name).or_default() += 1;
    }
    assert_eq!(seen.len(), 29, "{seen:?}");
}

#[test]
fn a_guild_stays_valid_and_its_ids_its_own() {
    let (mut world, mut rng) = (world(), Rng::with_seed(2));
    for round in 0..40 {
        (0..100).for_each(|_| drop(world.live(0, &mut rng)));
        let guild = guild(&world, 0);
        let mut ids = BTreeSet::new();
        for key in ["channels", "threads", "roles", "emojis"] {
            for object in guild[key].as_array().unwrap() {
                assert!(ids.insert(object["id"].as_str().unwrap()), "{key} {object} twice in round {round}");
            }
        }
        assert_eq!(guild["member_count"], guild["members"].as_array().unwrap().len());
        for thread in guild["threads"].as_array().unwrap() {
            assert!(ids.contains(thread["parent_id"].as_str().unwrap()), "{thread}");
        }
        for role in guild["members"].as_array().unwrap().iter().flat_map(|it| it["roles"].as_array().unwrap()) {
            assert!(ids.contains(role.as_str().unwrap()), "{role}");
        }
    }
}

#[test]
fn the_same_seed_tells_the_same() {
    let told = || {
        let (mut world, mut rng) = (world(), Rng::with_seed(3));
        (0..200).map(|_| world.live(1, &mut rng)).collect::<Vec<_>>()
    };
    assert_eq!(told(), told());
}

#[test]
fn replacing_changes_every_object() {
    let (mut world, mut rng) = (world(), Rng::with_seed(4));
    let before = guild(&world, 1);
    let told = world.replace(0, 1, &mut rng);
    assert_eq!(told.len(), 3 + 12 + 4 + 1 + 9 + 1 + 5 + 3);
    let after = guild(&world, 1);
    for part in Part::ALL.map(Part::key).into_iter().chain(["members", "presences"]) {
        let [old, new] = [&before, &after].map(|it| it[part].as_array().unwrap());
        assert_eq!(old.len(), new.len());
        let unchanged = old.iter().filter(|it| new.contains(it)).count();
        assert_eq!(unchanged, 0, "{part}");
    }
    assert!(world.replace(0, 2, &mut rng).is_empty(), "the last guild is in an outage");
}

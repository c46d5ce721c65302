//! What can change in a guild, as numbers: versions of objects, who is a member, what was created. No JSON is kept.
//!
//! An object's JSON follows from its number and version alone (`world`), so a guild of half a million members costs 12 MB
//! here and one that never changed costs nothing. What changes when is `life`'s.

/// Created things of one kind in one guild. When it is reached, one goes before the next comes.
const CREATED_MAX: usize = 40;
/// Numbers of created things before they begin anew; their ids must stay below those of the next guild.
const NUMBERS: u32 = 390_000;
/// In `Person::roles`: no role.
pub const NO_ROLE: u32 = u32::MAX;

/// What a guild has several of, apart from its people. The order is that of `World`'s base objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Channels,
    Threads,
    Roles,
    Emojis,
    Stickers,
    StageInstances,
    ScheduledEvents,
    Sounds,
}

impl Part {
    pub const ALL: [Self; 8] = [
        Self::Channels,
        Self::Threads,
        Self::Roles,
        Self::Emojis,
        Self::Stickers,
        Self::StageInstances,
        Self::ScheduledEvents,
        Self::Sounds,
    ];

    /// The array's key in GUILD_CREATE.
    pub fn key(self) -> &'static str {
        match self {
            Self::Channels => "channels",
            Self::Threads => "threads",
            Self::Roles => "roles",
            Self::Emojis => "emojis",
            Self::Stickers => "stickers",
            Self::StageInstances => "stage_instances",
            Self::ScheduledEvents => "guild_scheduled_events",
            Self::Sounds => "soundboard_sounds",
        }
    }
}

/// A channel, role, emoji, …; its number never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thing {
    pub number: u32,
    /// 0: as it was at the start.
    pub version: u32,
    /// The number of the channel that a thread lies in.
    pub parent: u32,
}

/// A member; its number is its place in `GuildState::people`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    pub version: u32,
    /// 0: offline. Else the presence's version plus 1.
    pub presence: u32,
    /// 0: not in voice. Else the voice state's version plus 1.
    pub voice: u32,
    /// Numbers of roles.
    pub roles: [u32; 2],
    pub is_in: bool,
    /// GUILD_CREATE names this member, because it always did or because an event did since.
    pub is_listed: bool,
}

/// Whether the bot sees the guild.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Available,
    Outage,
    /// The bot is not in it any more.
    Left,
}

#[derive(Clone, Debug)]
pub struct GuildState {
    pub standing: Standing,
    /// Grows with every change; what changes takes it as its version.
    pub tick: u32,
    /// Of the guild's own keys.
    pub version: u32,
    /// By member number; the bot is 0.
    pub people: Vec<Person>,
    pub member_count: u32,
    /// Members who left, who may come back.
    pub gone: Vec<u32>,
    /// By `Part as usize`.
    pub things: [Vec<Thing>; Part::ALL.len()],
    created: [u32; Part::ALL.len()],
}

impl GuildState {
    /// `things` says how many of each part there are.
    pub fn new(standing: Standing, people: Vec<Person>, things: [u32; Part::ALL.len()]) -> Self {
        let thing = |number| Thing { number, version: 0, parent: 0 };
        Self {
            standing,
            tick: 0,
            version: 0,
            member_count: people.len() as u32,
            people,
            gone: Vec::new(),
            things: things.map(|count| (0..count).map(thing).collect()),
            created: things,
        }
    }

    pub fn next_version(&mut self) -> u32 {
        self.tick += 1;
        self.tick
    }

    pub fn of(&self, part: Part) -> &[Thing] {
        &self.things[part as usize]
    }

    pub fn of_mut(&mut self, part: Part) -> &mut Vec<Thing> {
        &mut self.things[part as usize]
    }

    /// Whether one must go before another is created. `at_first` is how many there were at the start.
    pub fn is_full(&self, part: Part, at_first: usize) -> bool {
        self.of(part).len() >= at_first + CREATED_MAX
    }

    /// A new thing with a number that no living one has.
    pub fn create(&mut self, part: Part, parent: u32) -> Thing {
        let version = self.next_version();
        let number = loop {
            let number = self.created[part as usize] % NUMBERS;
            self.created[part as usize] = number + 1;
            if self.of(part).iter().all(|it| it.number != number) {
                break number;
            }
        };
        let thing = Thing { number, version, parent };
        self.of_mut(part).push(thing);
        thing
    }

    /// Discord takes a deleted role from its members without a word.
    pub fn delete_role(&mut self, number: u32) {
        self.of_mut(Part::Roles).retain(|it| it.number != number);
        for role in self.people.iter_mut().flat_map(|it| &mut it.roles) {
            if *role == number {
                *role = NO_ROLE;
            }
        }
    }

    pub fn delete_channel(&mut self, number: u32) {
        self.of_mut(Part::Channels).retain(|it| it.number != number);
        self.of_mut(Part::Threads).retain(|it| it.parent != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> GuildState {
        let person = Person { version: 0, presence: 0, voice: 0, roles: [2, NO_ROLE], is_in: true, is_listed: true };
        GuildState::new(Standing::Available, vec![person; 3], [2, 1, 5, 2, 1, 1, 1, 1])
    }

    #[test]
    fn a_created_thing_takes_no_living_number() {
        let mut state = state();
        state.created[Part::Roles as usize] = NUMBERS;
        let first = state.create(Part::Roles, 0);
        assert_eq!((first.number, first.version), (5, 1));
        assert_eq!(state.create(Part::Roles, 0).number, 6);
    }

    #[test]
    fn a_deleted_role_is_nobodys() {
        let mut state = state();
        state.delete_role(2);
        assert!(state.people.iter().all(|it| it.roles == [NO_ROLE; 2]));
        assert_eq!(state.of(Part::Roles).len(), 4);
    }

    #[test]
    fn a_deleted_channel_takes_its_threads() {
        let mut state = state();
        let thread = state.create(Part::Threads, 1);
        state.delete_channel(1);
        assert!(!state.of(Part::Threads).contains(&thread) && state.of(Part::Threads).len() == 1);
    }
}

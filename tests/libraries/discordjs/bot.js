// A discord.js bot for `../run`: tells what the library sees as JSON lines, and obeys the lines it reads.
// It does not judge; it uses nothing of the library but its public interface.
'use strict';

const readline = require('node:readline');
const { Client, Events } = require('discord.js');

const { API, TOKEN, SHARDS, INTENTS, PREFIX } = process.env;

const tell = line => process.stdout.write(`${JSON.stringify(line)}\n`);
const trouble = error => tell({ event: 'trouble', text: String(error?.stack ?? error) });

const client = new Client({
  intents: Number(INTENTS),
  shards: Array.from({ length: Number(SHARDS) }, (_, shard) => shard),
  shardCount: Number(SHARDS),
  rest: { api: `${API}/api` },
});

client.on(Events.Raw, (payload, shard) => {
  if (payload.t === 'READY') tell({ event: 'ready', shard });
});
client.on(Events.ShardResume, shard => tell({ event: 'resumed', shard }));
client.on(Events.ClientReady, () => tell({ event: 'all_ready' }));
client.on(Events.MessageCreate, message => {
  if (message.content.startsWith(PREFIX)) {
    tell({ event: 'message', shard: message.guild.shardId, number: Number(message.content.slice(PREFIX.length)) });
  }
});
client.on(Events.Error, trouble);
client.on(Events.Warn, trouble);

const names = manager => manager.map(it => [it.id, it.name]);
const portrait = guild =>
  guild.available
    ? {
        id: guild.id,
        name: guild.name,
        member_count: guild.memberCount,
        channels: names(guild.channels.cache.filter(it => !it.isThread())),
        threads: names(guild.channels.cache.filter(it => it.isThread())),
        roles: names(guild.roles.cache),
        emojis: names(guild.emojis.cache),
      }
    : { id: guild.id, unavailable: true };

// The cache of a guild, as much of it as both libraries have.
const state = guild =>
  guild.available
    ? {
        id: guild.id,
        name: guild.name,
        member_count: guild.memberCount,
        channels: guild.channels.cache
          .filter(it => !it.isThread())
          .map(it => [it.id, it.name, it.type, it.rawPosition, it.parentId, it.topic ?? null]),
        // The library keeps threads that were archived, and was never shown those that were archived before it came.
        threads: guild.channels.cache
          .filter(it => it.isThread() && !it.archived)
          .map(it => [it.id, it.name, it.parentId, it.locked]),
        roles: guild.roles.cache.map(it => [
          it.id, it.name, it.rawPosition, String(it.permissions.bitfield), it.colors.primaryColor, it.hoist, it.managed,
        ]),
        members: guild.members.cache.map(it => [
          it.id, it.user.username, it.user.globalName, it.nickname, it.joinedTimestamp, it.pending,
          ...it.roles.cache.map(role => role.id).sort(),
        ]),
        emojis: guild.emojis.cache.map(it => [it.id, it.name, it.animated, it.available]),
        stickers: guild.stickers.cache.map(it => [it.id, it.name]),
        voice: guild.voiceStates.cache
          .filter(it => it.channelId)
          .map(it => [it.id, it.channelId, it.selfMute]),
        avatars: guild.members.cache.map(it => [it.id, it.user.avatar]),
        voice_sessions: guild.voiceStates.cache.filter(it => it.channelId).map(it => [it.id, it.sessionId]),
      }
    : { id: guild.id, unavailable: true };

const commands = {
  state: () => tell({ event: 'state', guilds: client.guilds.cache.map(state) }),
  guilds: () => tell({ event: 'guilds', guilds: client.guilds.cache.map(portrait) }),
  members: async id => {
    const members = await client.guilds.cache.get(id).members.fetch();
    tell({ event: 'members', guild: id, ids: [...members.keys()] });
  },
  close: async () => {
    await client.destroy();
    lines.close();
  },
};

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', line => {
  const [command, ...words] = line.split(' ');
  Promise.resolve(commands[command](...words)).catch(trouble);
});

client.login(TOKEN).catch(error => {
  trouble(error);
  process.exitCode = 1;
  lines.close();
});

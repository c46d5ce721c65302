//! The REST calls that a gateway client makes before it connects. Everything else is 404.

use super::Discord;
use crate::http::{Message, json_answer};

/// Answers one request. The API version in the path is not looked at.
pub fn answer(discord: &mut Discord, request: &Message, gateway_url: &str) -> Vec<u8> {
    let other_url = discord.faults.gateway_url.clone();
    let gateway_url = other_url.as_deref().unwrap_or(gateway_url);
    let (path, _) = request.target();
    *discord.stats.rest.entry(path.to_owned()).or_default() += 1;
    if let Some(fault) = &mut discord.faults.rest {
        let (status, retry_after) = (fault.status, fault.retry_after_s);
        fault.count = fault.count.saturating_sub(1);
        if fault.count == 0 {
            discord.faults.rest = None;
        }
        let extra = if retry_after > 0.0 { format!("Retry-After: {}\r\n", retry_after.ceil()) } else { String::new() };
        let body = format!("{{\"message\":\"as asked\",\"retry_after\":{retry_after},\"global\":false}}");
        return json_answer(status, &extra, &body);
    }
    let what =
        path.trim_start_matches("/api").trim_start_matches(|it: char| matches!(it, '/' | 'v') || it.is_ascii_digit());
    if what == "gateway" {
        return json_answer(200, "", &format!("{{\"url\":\"{gateway_url}\"}}"));
    }
    let token = request.header("authorization").unwrap_or("");
    if token.strip_prefix("Bot ") != Some(&discord.options.token) {
        discord.stats.violate("REST token", token.to_owned());
        return json_answer(401, "", "{\"message\":\"401: Unauthorized\",\"code\":0}");
    }
    let bot = super::world::BOT_ID;
    let user = format!(
        "{{\"id\":\"{bot}\",\"username\":\"shard test\",\"avatar\":null,\"discriminator\":\"4242\",\"public_flags\":0,\"flags\":0,\
         \"bot\":true,\"banner\":null,\"accent_color\":null,\"global_name\":null,\"mfa_enabled\":true,\"locale\":\"en-US\",\
         \"email\":null,\"verified\":true}}"
    );
    let body = match what {
        "gateway/bot" => format!(
            "{{\"url\":\"{gateway_url}\",\"shards\":{},\"session_start_limit\":{{\"total\":{},\"remaining\":{},\
             \"reset_after\":14400000,\"max_concurrency\":{}}}}}",
            discord.options.size.shards,
            discord.gate.total,
            discord.gate.remaining(),
            discord.gate.max_concurrency(),
        ),
        "users/@me" => user,
        "oauth2/applications/@me" | "applications/@me" => format!(
            "{{\"id\":\"{bot}\",\"name\":\"shard test\",\"icon\":null,\"description\":\"\",\"type\":null,\"bot\":{user},\
             \"summary\":\"\",\"bot_public\":true,\"bot_require_code_grant\":false,\"verify_key\":\"00\",\"flags\":565248,\
             \"hook\":true,\"rpc_origins\":[],\"redirect_uris\":[],\"owner\":{user},\"team\":null}}"
        ),
        _ => return json_answer(404, "", "{\"message\":\"404: Not Found\",\"code\":0}"),
    };
    json_answer(200, "", &body)
}

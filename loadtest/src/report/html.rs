//! The page's frame and style: one file that needs no other, readable by light and by dark, wide and narrow.
//!
//! What it says is `page`.

use super::table::escape;

const STYLE: &str = include_str!("style.css");

/// A card with one number: the number, its unit, and what it is.
pub struct Card {
    pub number: String,
    pub unit: &'static str,
    pub what: String,
}

/// The whole document. `body` is HTML, `title` is text.
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title)
    )
}

pub fn cards(cards: &[Card]) -> String {
    let mut html = "<ul class=\"cards\">\n".to_owned();
    for card in cards {
        html += &format!(
            "<li><b>{} <small>{}</small></b><span>{}</span></li>\n",
            escape(&card.number),
            escape(card.unit),
            escape(&card.what)
        );
    }
    html + "</ul>\n"
}

/// A heading and what is under it. Nothing when there is nothing under it.
pub fn section(id: &str, heading: &str, parts: &[String]) -> String {
    if parts.iter().all(String::is_empty) {
        return String::new();
    }
    format!("<section id=\"{id}\">\n<h2>{}</h2>\n{}</section>\n", escape(heading), parts.concat())
}

pub fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// A drawing with a heading of its own, and the numbers behind it to unfold. Nothing without the drawing.
pub fn figure(heading: &str, drawing: &str, table: &str) -> String {
    if drawing.is_empty() {
        return String::new();
    }
    let numbers = match table {
        "" => String::new(),
        table => format!("<details><summary>the numbers</summary>{table}</details>"),
    };
    format!("<figure><figcaption>{}</figcaption>{drawing}{numbers}</figure>\n", escape(heading))
}

/// Words, and the drawing beside them where there is room. Nothing without the drawing.
pub fn split(text: &str, figure: &str) -> String {
    if figure.is_empty() {
        return String::new();
    }
    format!("<div class=\"split\">\n<div>{text}</div>\n{figure}</div>\n")
}

/// Drawings beside each other where there is room.
pub fn beside(figures: &[String]) -> String {
    if figures.iter().all(String::is_empty) {
        return String::new();
    }
    format!("<div class=\"beside\">\n{}</div>\n", figures.concat())
}

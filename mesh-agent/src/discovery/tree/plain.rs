//! The YAML that Kubernetes' tools and most people write, read many times
//! faster than all of YAML: blocks of mappings and lists, flow collections of
//! one line, plain, quoted and literal texts.
//!
//! It takes only what it is sure of. All else is `None`, and YAML's to read:
//! anchors, tags, folded texts, anything but ASCII, every mistake.

use std::borrow::Cow;

use super::yaml::{Tagged, scalar};
use super::{Data, MAX_DEPTH, MAX_NODES, MapEntry, Mapping, NULL, Node, Position};

/// YAML has a bound of its own, which is higher.
const MAX_KEY: usize = 256;

pub(super) fn plain(text: &str) -> Option<Node<'_>> {
    let is_plain = |byte: u8| byte == b'\n' || (b' '..=b'~').contains(&byte);
    if !text.bytes().all(is_plain) {
        return None;
    }
    let mut lines = Lines {
        text,
        next: 0,
        number: 0,
        nodes: 0,
        line: None,
    };
    lines.advance();
    let node = lines.block(0)?;
    // All of it, or none of it.
    lines.line.is_none().then_some(node)
}

/// A line that says something, or the rest of it.
#[derive(Clone, Copy)]
struct Line<'t> {
    number: u32,
    indent: usize,
    /// From its first sign to its last one.
    text: &'t str,
}

impl<'t> Line<'t> {
    /// What is behind the first `signs` of it, and spaces.
    fn after(self, signs: usize) -> Self {
        let text = self.text[signs..].trim_start_matches(' ');
        Self {
            indent: self.indent + self.text.len() - text.len(),
            text,
            ..self
        }
    }

    fn place(self) -> Position {
        let column = u32::try_from(self.indent + 1).unwrap_or(u32::MAX);
        Position {
            line: self.number,
            column,
        }
    }

    fn is_item(self) -> bool {
        self.text == "-" || self.text.starts_with("- ")
    }

    fn is_empty(self) -> bool {
        self.text.is_empty() || self.text.starts_with('#')
    }

    /// Behind so many signs: nothing, or a comment with a space before it.
    fn ends(self, signs: usize) -> bool {
        let rest = self.after(signs);
        let spaced = rest.indent > self.indent + signs;
        rest.text.is_empty() || (spaced && rest.text.starts_with('#'))
    }

    /// The key that it begins with, and what is behind the colon.
    fn key(self) -> Option<(Cow<'t, str>, Self)> {
        let (key, colon) = match self.text.as_bytes().first()? {
            b'"' | b'\'' => quoted(self.text)?,
            first if is_name(*first) => {
                let colon = end_of_plain(self.text);
                (self.text[..colon].into(), colon)
            }
            _ => return None,
        };
        let rest = self.text[colon..].strip_prefix(':')?;
        let is_key = rest.is_empty() || rest.starts_with(' ');
        let is_text = !key.ends_with(' ') && key.len() <= MAX_KEY;
        let is_null = !self.text.starts_with(['"', '\'']) && super::scalar::is_null(&key);
        (is_key && is_text && !is_null).then(|| (key, self.after(colon + 1)))
    }
}

/// What a plain scalar begins with that can be nothing else.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'/')
}

fn begins_plain(text: &str) -> bool {
    match text.as_bytes() {
        [b'-', next, ..] => next.is_ascii_alphanumeric() || *next == b'.',
        [first, ..] => is_name(*first) || matches!(first, b'+' | b'(' | b'<' | b'=' | b'$' | b'~'),
        [] => false,
    }
}

/// Where a colon with a space, or a comment, ends a plain scalar of a block.
fn end_of_plain(text: &str) -> usize {
    let bytes = text.as_bytes();
    let ends = |at: usize| match bytes[at] {
        b':' => bytes.get(at + 1).is_none_or(|next| *next == b' '),
        b'#' => at > 0 && bytes[at - 1] == b' ',
        _ => false,
    };
    (0..bytes.len()).find(|at| ends(*at)).unwrap_or(bytes.len())
}

/// A text in quotes that it begins with, and where that ends.
fn quoted(text: &str) -> Option<(Cow<'_, str>, usize)> {
    let quote = text.as_bytes()[0];
    let end = 1 + text.as_bytes()[1..].iter().position(|b| *b == quote)?;
    let inner = &text[1..end];
    if quote == b'"' && inner.contains('\\') {
        return escaped(text);
    }
    // Twice is one of them within the text.
    let is_whole = text.as_bytes().get(end + 1) != Some(&b'\'');
    (quote == b'"' || is_whole).then(|| (inner.into(), end + 1))
}

fn escaped(text: &str) -> Option<(Cow<'_, str>, usize)> {
    let mut out = String::new();
    let mut bytes = text.bytes().enumerate().skip(1);
    loop {
        match bytes.next()? {
            (at, b'"') => return Some((out.into(), at + 1)),
            (_, b'\\') => out.push(match bytes.next()?.1 {
                b'n' => '\n',
                b't' => '\t',
                b'"' => '"',
                b'\\' => '\\',
                b'/' => '/',
                _ => return None,
            }),
            (_, byte) => out.push(char::from(byte)),
        }
    }
}

/// What a value belongs to decides whether a list may stand below it without
/// an indent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Key,
    Item,
}

struct Lines<'t> {
    text: &'t str,
    /// Where the line after this one begins.
    next: usize,
    number: u32,
    nodes: usize,
    line: Option<Line<'t>>,
}

impl<'t> Lines<'t> {
    /// The next line as it is, without its end.
    fn raw(&mut self) -> Option<&'t str> {
        let rest = self.text.get(self.next..).filter(|rest| !rest.is_empty())?;
        let length = rest.bytes().position(|b| b == b'\n').unwrap_or(rest.len());
        self.next += length + 1;
        self.number += 1;
        Some(&rest[..length])
    }

    fn advance(&mut self) {
        self.line = None;
        while let Some(raw) = self.raw() {
            let text = raw.trim_start_matches(' ');
            if !text.is_empty() && !text.starts_with('#') {
                self.line = Some(Line {
                    number: self.number,
                    indent: raw.len() - text.len(),
                    text: text.trim_end_matches(' '),
                });
                return;
            }
        }
    }

    fn count(&mut self) -> Option<()> {
        self.nodes += 1;
        (self.nodes <= MAX_NODES).then_some(())
    }

    /// The list or mapping that begins here.
    fn block(&mut self, depth: usize) -> Option<Node<'t>> {
        let depth = depth + 1;
        if depth > MAX_DEPTH {
            return None;
        }
        self.count()?;
        let line = self.line?;
        let data = match line.is_item() {
            true => Data::List(self.items(line.indent, depth)?),
            false => Data::Mapping(self.fields(line.indent, depth)?),
        };
        // What is indented otherwise belongs to nothing.
        let place = line.place();
        let fits = self.line.is_none_or(|next| next.indent <= line.indent);
        fits.then_some(Node { data, place })
    }

    fn fields(&mut self, indent: usize, depth: usize) -> Option<Mapping<'t>> {
        let mut entries = Vec::new();
        while let Some(line) = self.line.filter(|line| line.indent == indent) {
            let (key, rest) = line.key()?;
            self.count()?;
            entries.push(MapEntry {
                key,
                place: line.place(),
                value: self.value(rest, indent, Of::Key, depth)?,
            });
        }
        Mapping::of(entries).ok()
    }

    fn items(&mut self, indent: usize, depth: usize) -> Option<Vec<Node<'t>>> {
        let mut items = Vec::new();
        let is_next = |line: &Line<'_>| line.indent == indent && line.is_item();
        while let Some(line) = self.line.filter(is_next) {
            let rest = line.after(1);
            let is_block = rest.is_item() || rest.key().is_some();
            items.push(match is_block {
                true => {
                    self.line = Some(rest);
                    self.block(depth)?
                }
                false => self.value(rest, indent, Of::Item, depth)?,
            });
        }
        Some(items)
    }

    /// On the line of its key or dash, or below it.
    fn value(&mut self, rest: Line<'t>, indent: usize, of: Of, depth: usize) -> Option<Node<'t>> {
        let place = rest.place();
        if rest.is_empty() {
            self.advance();
            return match self.line {
                Some(line) if line.indent > indent => self.block(depth),
                Some(line) if line.indent == indent && of == Of::Key && line.is_item() => {
                    self.block(depth)
                }
                _ => {
                    self.count()?;
                    Some(Node { place, ..NULL })
                }
            };
        }
        if rest.text.starts_with('|') {
            self.count()?;
            return self.literal(rest.text, indent);
        }
        let mut flow = Flow {
            line: rest,
            at: 0,
            nodes: &mut self.nodes,
        };
        let is_plain = !rest.text.starts_with(['"', '\'', '{', '[']);
        let node = match is_plain {
            true => flow.last_plain()?,
            false => flow.node(depth)?,
        };
        let (ends, at) = (rest.ends(flow.at), flow.at);
        self.advance();
        if is_plain && at == rest.text.len() {
            return self.folded(rest, node, indent);
        }
        ends.then_some(node)
    }

    /// A plain text may go on below, with an indent: a space joins the lines.
    fn folded(&mut self, first: Line<'t>, node: Node<'t>, indent: usize) -> Option<Node<'t>> {
        let mut folded: Option<String> = None;
        let mut number = first.number;
        // A line between them would count.
        let is_next = |line: &Line<'_>, number: u32| line.indent > indent && line.number == number;
        while let Some(line) = self.line.filter(|line| is_next(line, number + 1)) {
            if end_of_plain(line.text) < line.text.len() || line.text.starts_with(':') {
                return None;
            }
            let text = folded.get_or_insert_with(|| first.text.to_owned());
            text.push(' ');
            text.push_str(line.text);
            number = line.number;
            self.advance();
        }
        Some(match folded {
            Some(text) => Node {
                data: Data::Text(text.into()),
                ..node
            },
            None => node,
        })
    }

    /// The lines of a text that keeps them.
    fn literal(&mut self, mark: &str, indent: usize) -> Option<Node<'t>> {
        let (mut text, mut own, mut blank) = (String::new(), None, 0);
        let mut first = self.number + 1;
        if !matches!(mark, "|" | "|-" | "|+") {
            return None;
        }
        loop {
            let (next, number) = (self.next, self.number);
            let Some(raw) = self.raw() else { break };
            let spaces = raw.len() - raw.trim_start_matches(' ').len();
            let is_blank = spaces == raw.len();
            match own {
                None if is_blank && spaces > indent => return None,
                Some(own) if is_blank && spaces <= own => blank += 1,
                None if is_blank => blank += 1,
                _ if spaces < own.unwrap_or(indent + 1) => {
                    (self.next, self.number) = (next, number);
                    break;
                }
                _ => {
                    if own.is_none() {
                        first = self.number;
                    }
                    let own = *own.get_or_insert(spaces);
                    text.extend(std::iter::repeat_n('\n', blank));
                    blank = 0;
                    text.push_str(&raw[own..]);
                    text.push('\n');
                }
            }
        }
        let place = Line {
            number: first,
            indent: own?,
            text: "",
        };
        match mark {
            "|-" => drop(text.pop()),
            "|+" => text.extend(std::iter::repeat_n('\n', blank)),
            _ => {}
        }
        self.advance();
        Some(Node {
            data: Data::Text(text.into()),
            place: place.place(),
        })
    }
}

/// One line, sign by sign.
struct Flow<'t, 'n> {
    line: Line<'t>,
    at: usize,
    nodes: &'n mut usize,
}

impl<'t> Flow<'t, '_> {
    fn rest(&self) -> &'t str {
        &self.line.text[self.at..]
    }

    fn place(&self) -> Position {
        let indent = self.line.indent + self.at;
        Line {
            indent,
            ..self.line
        }
        .place()
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(' ').len();
    }

    fn takes(&mut self, sign: char) -> bool {
        self.skip_spaces();
        let takes = self.rest().starts_with(sign);
        self.at += usize::from(takes);
        takes
    }

    fn node(&mut self, depth: usize) -> Option<Node<'t>> {
        self.skip_spaces();
        let place = self.place();
        let first = *self.rest().as_bytes().first()?;
        let data = match first {
            b'{' | b'[' if depth == MAX_DEPTH => return None,
            b'{' => self.mapping(depth + 1)?,
            b'[' => self.list(depth + 1)?,
            b'"' | b'\'' => Data::Text(self.quoted()?),
            _ => {
                let text = self.plain()?;
                scalar(text.into(), false, Tagged::No, place).ok()?
            }
        };
        self.count()?;
        Some(Node { data, place })
    }

    fn count(&mut self) -> Option<()> {
        *self.nodes += 1;
        (*self.nodes <= MAX_NODES).then_some(())
    }

    fn list(&mut self, depth: usize) -> Option<Data<'t>> {
        let mut items = Vec::new();
        self.at += 1;
        while !self.takes(']') {
            items.push(self.node(depth)?);
            if !self.takes(',') && !self.rest().starts_with(']') {
                return None;
            }
        }
        Some(Data::List(items))
    }

    fn mapping(&mut self, depth: usize) -> Option<Data<'t>> {
        let mut entries = Vec::new();
        self.at += 1;
        while !self.takes('}') {
            let place = self.place();
            let is_quoted = self.rest().starts_with(['"', '\'']);
            let key = match is_quoted {
                true => self.quoted()?,
                false => self
                    .plain()
                    .filter(|key| is_name(key.as_bytes()[0]))?
                    .into(),
            };
            let is_null = !is_quoted && super::scalar::is_null(&key);
            if is_null || key.len() > MAX_KEY || !self.rest().starts_with(": ") {
                return None;
            }
            self.at += 1;
            self.count()?;
            let value = self.node(depth)?;
            entries.push(MapEntry { key, place, value });
            if !self.takes(',') && !self.rest().starts_with('}') {
                return None;
            }
        }
        Some(Data::Mapping(Mapping::of(entries).ok()?))
    }

    fn quoted(&mut self) -> Option<Cow<'t, str>> {
        let (text, end) = quoted(self.rest())?;
        self.at += end;
        Some(text)
    }

    /// Up to what ends it within a list or mapping.
    fn plain(&mut self) -> Option<&'t str> {
        let rest = self.rest();
        if !begins_plain(rest) {
            return None;
        }
        let bytes = rest.as_bytes();
        let is_mark = |byte: &u8| matches!(byte, b',' | b'[' | b']' | b'{' | b'}');
        let mut end = bytes.iter().position(is_mark).unwrap_or(bytes.len());
        if let Some(colon) = rest[..end].find(": ") {
            end = colon;
        }
        let text = rest[..end].trim_end_matches(' ');
        if text.contains(" #") || text.ends_with(':') {
            return None;
        }
        self.at += text.len();
        Some(text)
    }

    /// Up to the end of the line.
    fn last_plain(&mut self) -> Option<Node<'t>> {
        let (rest, place) = (self.rest(), self.place());
        let end = end_of_plain(rest);
        if !begins_plain(rest) || rest[end..].starts_with(':') {
            return None;
        }
        let text = rest[..end].trim_end_matches(' ');
        self.at += text.len();
        self.count()?;
        let data = scalar(text.into(), false, Tagged::No, place).ok()?;
        Some(Node { data, place })
    }
}

//! A Rust file as the rules see it: code without comments and literals,
//! comments alone, and which lines are tests.

/// One file, split by lines; all vectors have the same length.
pub(super) struct Source<'a> {
    /// Path from the repository's root, with `/`.
    pub(super) name: &'a str,
    pub(super) text: Vec<&'a str>,
    /// Comments, strings and characters replaced by blanks.
    pub(super) code: Vec<String>,
    /// Only the comments.
    pub(super) comments: Vec<String>,
    pub(super) is_test: Vec<bool>,
}

impl<'a> Source<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        let (code, comments) = Splitter::split(text);
        let code: Vec<String> = code.split('\n').map(str::to_owned).collect();
        let comments = comments.split('\n').map(str::to_owned).collect();
        let is_test = test_lines(name, &code);
        Self {
            name,
            text: text.split('\n').collect(),
            code,
            comments,
            is_test,
        }
    }

    /// The agent's top module that this file belongs to, and how many modules deep
    /// it lies below the crate's root.
    pub(super) fn top_module(&self) -> Option<(&'a str, usize)> {
        let path = self
            .name
            .strip_prefix("mesh-agent/src/")?
            .strip_suffix(".rs")?;
        let path = path.strip_suffix("/mod").unwrap_or(path);
        let top_module = path.split('/').next()?;
        (top_module != "lib").then(|| (top_module, path.split('/').count()))
    }

    /// Line numbers from 1 with the code of each line.
    pub(super) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .iter()
            .enumerate()
            .map(|(i, line)| (i + 1, line.as_str()))
    }
}

/// Where `word` stands in `code` as a whole word.
pub(super) fn find_word(code: &str, word: &str) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(at, _)| at).find(|&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// Marks test files, and in others each item behind `#[cfg(test)]`.
fn test_lines(name: &str, code: &[String]) -> Vec<bool> {
    let whole = name.ends_with("/tests.rs")
        || name.contains("/tests/")
        || name.starts_with("tests/")
        || name.contains("/benches/");
    let mut marks = vec![whole; code.len()];
    let mut at = 0;
    while at < code.len() {
        if code[at].trim_start().starts_with("#[cfg(test)]") {
            let end = end_of_item(code, at);
            marks[at..=end].fill(true);
            at = end;
        }
        at += 1;
    }
    marks
}

/// The last line of the item that begins at `start`: the one that closes its
/// first brace, or ends in `;` before any brace.
fn end_of_item(code: &[String], start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, line) in code.iter().enumerate().skip(start) {
        for c in line.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth <= 1 => return at,
                '}' => depth -= 1,
                ';' if depth == 0 => return at,
                _ => {}
            }
        }
    }
    code.len() - 1
}

/// Splits text into code and comments of the same shape.
struct Splitter {
    chars: Vec<char>,
    at: usize,
    code: String,
    comments: String,
}

#[derive(Clone, Copy)]
enum Kind {
    Code,
    Comment,
    Literal,
}

impl Splitter {
    fn split(text: &str) -> (String, String) {
        let mut splitter = Self {
            chars: text.chars().collect(),
            at: 0,
            code: String::new(),
            comments: String::new(),
        };
        while splitter.at < splitter.chars.len() {
            splitter.step();
        }
        (splitter.code, splitter.comments)
    }

    fn step(&mut self) {
        match (self.peek(0), self.peek(1)) {
            ('/', '/') => self.take_while(Kind::Comment, |s| s.peek(0) != '\n'),
            ('/', '*') => self.block_comment(),
            ('"', _) => self.string(),
            ('r', '"' | '#') if !self.follows_word() && self.raw_hashes().is_some() => {
                self.raw_string();
            }
            ('\'', _) if self.is_char_literal() => self.char_literal(),
            _ => self.take(Kind::Code, 1),
        }
    }

    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn follows_word(&self) -> bool {
        // `br"…"` is a literal too: its `b` counts as none.
        let before = self.at.checked_sub(1).map(|i| self.chars[i]);
        before.is_some_and(|c| (c.is_alphanumeric() && c != 'b') || c == '_')
    }

    /// Moves `count` characters on; newlines stay in both outputs.
    fn take(&mut self, kind: Kind, count: usize) {
        for _ in 0..count {
            let Some(&c) = self.chars.get(self.at) else {
                return;
            };
            self.at += 1;
            let (code, comment) = match (kind, c) {
                (_, '\n') => ('\n', '\n'),
                (Kind::Code, c) => (c, ' '),
                (Kind::Comment, c) => (' ', c),
                (Kind::Literal, _) => (' ', ' '),
            };
            self.code.push(code);
            self.comments.push(comment);
        }
    }

    fn take_while(&mut self, kind: Kind, mut go_on: impl FnMut(&Self) -> bool) {
        while self.at < self.chars.len() && go_on(self) {
            self.take(kind, 1);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.chars.len() {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    self.take(Kind::Comment, 1);
                    continue;
                }
            }
            self.take(Kind::Comment, 2);
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.take(Kind::Literal, 1);
        while self.at < self.chars.len() && self.peek(0) != '"' {
            let length = if self.peek(0) == '\\' { 2 } else { 1 };
            self.take(Kind::Literal, length);
        }
        self.take(Kind::Literal, 1);
    }

    /// The number of `#` if a raw string begins here.
    fn raw_hashes(&self) -> Option<usize> {
        let hashes = (1..).take_while(|&i| self.peek(i) == '#').count();
        (self.peek(1 + hashes) == '"').then_some(hashes)
    }

    fn raw_string(&mut self) {
        let hashes = self.raw_hashes().unwrap_or(0);
        self.take(Kind::Literal, 2 + hashes);
        let closes = |s: &Self| s.peek(0) == '"' && (1..=hashes).all(|i| s.peek(i) == '#');
        self.take_while(Kind::Literal, |s| !closes(s));
        self.take(Kind::Literal, 1 + hashes);
    }

    /// Tells `'a'` and `'\n'` from the lifetime `'a`.
    fn is_char_literal(&self) -> bool {
        self.peek(1) == '\\' || self.peek(2) == '\''
    }

    fn char_literal(&mut self) {
        // The quote and the character, or the backslash and what it escapes.
        let length = if self.peek(1) == '\\' { 3 } else { 2 };
        self.take(Kind::Literal, length);
        self.take_while(Kind::Literal, |s| s.peek(0) != '\'');
        self.take(Kind::Literal, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "let a = \"unsafe\\\" // x\"; // unsafe\nr#\"unsafe \" \"# /* unsafe /* n */ */ b'\\'' 'u' fn f<'u>()";
        let source = Source::new("x.rs", text);
        assert!(
            source
                .code
                .iter()
                .all(|line| find_word(line, "unsafe").is_none())
        );
        assert!(source.code[1].ends_with("fn f<'u>()"), "{}", source.code[1]);
        assert!(source.comments[0].contains("// unsafe"));
        assert!(!source.comments[0].contains("// x"));
    }

    #[test]
    fn words_match_whole() {
        assert_eq!(find_word("unsafe_code unsafe {", "unsafe"), Some(12));
        assert_eq!(find_word("deny(unsafe_code)", "unsafe"), None);
    }

    #[test]
    fn test_items_end_where_their_braces_close() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { }\n}\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}";
        let marks = Source::new("x.rs", text).is_test;
        assert_eq!(
            marks,
            [false, true, true, true, true, false, true, true, false]
        );
    }

    #[test]
    fn top_modules_follow_from_paths() {
        let top_module = |name| Source::new(name, "").top_module();
        assert_eq!(top_module("mesh-agent/src/sys/mod.rs"), Some(("sys", 1)));
        assert_eq!(top_module("mesh-agent/src/sys/bpf.rs"), Some(("sys", 2)));
        assert_eq!(top_module("mesh-agent/src/app.rs"), Some(("app", 1)));
        assert_eq!(top_module("mesh-agent/src/lib.rs"), None);
        assert_eq!(top_module("xtask/src/main.rs"), None);
    }
}

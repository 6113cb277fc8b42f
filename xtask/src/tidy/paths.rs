//! What a file names of other modules: its imports, the paths written out in
//! its code, and the modules that it declares. Tests are left out.

use std::collections::BTreeSet;

use super::source::Source;

/// `use a::b::c as d;`, groups taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Import {
    pub(super) path: Vec<String>,
    /// The name it has here; `None` for a glob.
    pub(super) name: Option<String>,
    /// `pub use` of any visibility.
    pub(super) is_exported: bool,
    pub(super) line: usize,
}

/// A path of two segments or more outside of imports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

#[derive(Debug, Default)]
pub(super) struct Paths {
    pub(super) imports: Vec<Import>,
    pub(super) written: Vec<Written>,
    /// `mod name;`: each is a file.
    pub(super) children: BTreeSet<String>,
    /// Names that the code uses, imports and methods left out.
    pub(super) names: BTreeSet<String>,
}

impl Paths {
    pub(super) fn of(source: &Source<'_>) -> Self {
        let tokens = tokens(source);
        let mut reader = Reader {
            tokens: &tokens,
            at: 0,
            inline: Vec::new(),
            depth: 0,
            paths: Self::default(),
        };
        reader.read();
        reader.paths
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'s> {
    Word(&'s str),
    /// `::`
    Colons,
    Mark(char),
}

/// With the line of each; white space and test lines left out.
fn tokens<'s>(source: &'s Source<'_>) -> Vec<(Token<'s>, usize)> {
    let mut tokens = Vec::new();
    for (line, code) in source.code_lines() {
        if source.is_test[line - 1] {
            continue;
        }
        let mut rest = code.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            let (token, length) = match first {
                _ if word > 0 => (Token::Word(&rest[..word]), word),
                ':' if rest.starts_with("::") => (Token::Colons, 2),
                other => (Token::Mark(other), other.len_utf8()),
            };
            tokens.push((token, line));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct Reader<'t, 's> {
    tokens: &'t [(Token<'s>, usize)],
    at: usize,
    /// Depths at which the inline modules around this place began.
    inline: Vec<usize>,
    depth: usize,
    paths: Paths,
}

impl<'s> Reader<'_, 's> {
    fn peek(&self, ahead: usize) -> Option<Token<'s>> {
        self.tokens.get(self.at + ahead).map(|(token, _)| *token)
    }

    fn before(&self, back: usize) -> Option<Token<'s>> {
        let at = self.at.checked_sub(back)?;
        self.tokens.get(at).map(|(token, _)| *token)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(0, |(_, line)| *line)
    }

    fn read(&mut self) {
        while let Some(token) = self.peek(0) {
            match (token, self.peek(1), self.peek(2)) {
                // `use<'a>` bounds what an opaque type captures.
                (Token::Word("use"), next, _) if next != Some(Token::Mark('<')) => self.import(),
                (Token::Word("mod"), Some(Token::Word(name)), Some(Token::Mark(';'))) => {
                    self.paths.children.insert(name.to_owned());
                    self.at += 3;
                }
                (Token::Word("mod"), Some(Token::Word(_)), Some(Token::Mark('{'))) => {
                    self.inline.push(self.depth);
                    self.at += 2;
                }
                (Token::Word(_), _, _) => self.word(),
                (Token::Mark(mark), _, _) => {
                    self.brace(mark);
                    self.at += 1;
                }
                (Token::Colons, _, _) => self.at += 1,
            }
        }
    }

    fn brace(&mut self, mark: char) {
        match mark {
            '{' => self.depth += 1,
            '}' => {
                self.depth = self.depth.saturating_sub(1);
                if self.inline.last() == Some(&self.depth) {
                    self.inline.pop();
                }
            }
            _ => {}
        }
    }

    /// A name or a path.
    fn word(&mut self) {
        let line = self.line();
        let begins = !matches!(self.before(1), Some(Token::Colons | Token::Mark('.')));
        let path = self.segments();
        if !begins {
            return;
        }
        self.paths.names.insert(path[0].clone());
        if path.len() > 1 {
            let path = self.outside_inline(path);
            self.paths.written.push(Written { path, line });
        }
    }

    /// `a::b::c`, up to what is no name.
    fn segments(&mut self) -> Vec<String> {
        let mut path = Vec::new();
        while let Some(Token::Word(word)) = self.peek(0) {
            path.push(word.to_owned());
            self.at += 1;
            let goes_on =
                self.peek(0) == Some(Token::Colons) && matches!(self.peek(1), Some(Token::Word(_)));
            if !goes_on {
                break;
            }
            self.at += 1;
        }
        path
    }

    fn import(&mut self) {
        let is_exported = self.follows_pub();
        self.at += 1;
        if self.peek(0) == Some(Token::Colons) {
            self.at += 1;
        }
        self.tree(&[], is_exported);
    }

    /// `pub use`, `pub(crate) use`, `pub(in a::b) use`.
    fn follows_pub(&self) -> bool {
        if self.before(1) == Some(Token::Word("pub")) {
            return true;
        }
        let closes = self.before(1) == Some(Token::Mark(')'));
        let opens = |back: &usize| self.before(*back) == Some(Token::Mark('('));
        closes
            && (2..12)
                .find(opens)
                .is_some_and(|back| self.before(back + 1) == Some(Token::Word("pub")))
    }

    /// One branch of an import, below `prefix`.
    fn tree(&mut self, prefix: &[String], is_exported: bool) {
        let line = self.line();
        let mut path = prefix.to_vec();
        path.extend(self.segments());
        if self.peek(0) == Some(Token::Colons) {
            self.at += 1;
        }
        match self.peek(0) {
            Some(Token::Mark('{')) => {
                self.at += 1;
                self.group(&path, is_exported);
            }
            Some(Token::Mark('*')) => {
                self.at += 1;
                self.add(path, None, is_exported, line);
            }
            next => {
                if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                let mut name = path.last().cloned();
                if next == Some(Token::Word("as"))
                    && let Some(Token::Word(alias)) = self.peek(1)
                {
                    name = Some(alias.to_owned());
                    self.at += 2;
                }
                self.add(path, name, is_exported, line);
            }
        }
    }

    fn group(&mut self, prefix: &[String], is_exported: bool) {
        while let Some(token) = self.peek(0) {
            match token {
                Token::Mark('}') => {
                    self.at += 1;
                    return;
                }
                Token::Mark(',') => self.at += 1,
                Token::Word(_) | Token::Mark('{' | '*') => self.tree(prefix, is_exported),
                // Not Rust: end rather than turn.
                Token::Mark(_) | Token::Colons => return,
            }
        }
    }

    fn add(&mut self, path: Vec<String>, name: Option<String>, is_exported: bool, line: usize) {
        let path = self.outside_inline(path);
        self.paths.imports.push(Import {
            path,
            name,
            is_exported,
            line,
        });
    }

    /// As it would be written in the file's own module.
    fn outside_inline(&self, mut path: Vec<String>) -> Vec<String> {
        let is_super = |path: &[String]| path.first().is_some_and(|first| first == "super");
        for _ in &self.inline {
            if !is_super(&path) {
                break;
            }
            path.remove(0);
            if !is_super(&path) {
                path.insert(0, "self".to_owned());
            }
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Paths {
        Paths::of(&Source::new("mesh-agent/src/a/b.rs", text))
    }

    fn imports(text: &str) -> Vec<String> {
        let shown = |import: Import| {
            let name = import.name.unwrap_or_else(|| "*".to_owned());
            let exported = if import.is_exported { "pub " } else { "" };
            format!("{exported}{} as {name}", import.path.join("::"))
        };
        paths(text).imports.into_iter().map(shown).collect()
    }

    #[test]
    fn groups_of_imports_are_taken_apart() {
        assert_eq!(
            imports(
                "use crate::{\n a::{self, b::{C, D as E}},\n f::*,\n};\npub(in crate::x) use super::G;"
            ),
            [
                "crate::a as a",
                "crate::a::b::C as C",
                "crate::a::b::D as E",
                "crate::f as *",
                "pub super::G as G",
            ]
        );
    }

    #[test]
    fn paths_in_code_are_seen_and_methods_are_not() {
        let found =
            paths("fn f() -> impl Fn() + use<'_> { crate::a::g::<T>(x.plan(), super::h::I) }");
        let written: Vec<String> = found.written.iter().map(|w| w.path.join("::")).collect();
        assert_eq!(written, ["crate::a::g", "super::h::I"]);
        assert!(!found.names.contains("plan") && found.names.contains("x"));
    }

    #[test]
    fn tests_and_comments_name_nothing() {
        let text = "// crate::a::b\nlet s = \"crate::c::d\";\n#[cfg(test)]\nmod tests {\n use crate::e::f;\n}\n";
        let found = paths(text);
        assert!(found.imports.is_empty() && found.written.is_empty());
    }

    #[test]
    fn a_module_inside_the_file_is_the_file() {
        let text = "mod child;\nmod here {\n use super::x::Y;\n use super::super::z;\n fn f() { crate::q::r() }\n}\nuse super::w;\n";
        let found = paths(text);
        let imported: Vec<String> = found.imports.iter().map(|i| i.path.join("::")).collect();
        assert_eq!(imported, ["self::x::Y", "super::z", "super::w"]);
        assert_eq!(found.children.iter().collect::<Vec<_>>(), ["child"]);
    }
}

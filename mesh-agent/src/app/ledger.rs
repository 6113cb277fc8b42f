//! Which problems there are, since when, and what of it the log has said.
//!
//! A problem is logged when it comes, when it says something else, and when it
//! is over, each at the same level: nobody should look for a recovery in vain.
//! One that comes and goes is told a few times, and then once in a while how it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use crate::admin::Problem;

/// Lines about one problem at once, and how long until there may be one more.
const BURST: u32 = 6;
const ONE_MORE: Duration = Duration::from_secs(30);
/// Most problems that are kept; what is more is counted in one.
const MAX: usize = 1_000;

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Problem(Problem),
    /// What was said of it last.
    Over(Problem),
}

#[derive(Debug)]
struct LedgerEntry {
    now: Option<Problem>,
    /// What the log says.
    told: Option<Problem>,
    /// When the burst is whole again.
    due: Instant,
}

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall: SystemTime,
    pub(super) mono: Instant,
}

impl Now {
    pub(super) fn read() -> Self {
        Self {
            wall: SystemTime::now(),
            mono: Instant::now(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<String, LedgerEntry>,
}

impl Ledger {
    /// Takes note of all problems that there are now; gives them with their
    /// times, those that block first, and what is to be logged.
    pub(super) fn note(&mut self, problems: Vec<Problem>, now: Now) -> (Vec<Problem>, Vec<Line>) {
        let problems = bounded(problems);
        let mut before: BTreeMap<String, Problem> = BTreeMap::new();
        for (subject, entry) in &mut self.entries {
            if let Some(problem) = entry.now.take() {
                before.insert(subject.clone(), problem);
            }
        }
        for mut problem in problems {
            let earlier = before.get(&problem.subject);
            problem.since = earlier.map_or_else(|| seconds(now.wall), |p| p.since);
            let entry = self.entries.entry(problem.subject.clone());
            let entry = entry.or_insert(LedgerEntry {
                now: None,
                told: None,
                due: now.mono,
            });
            entry.now = Some(problem);
        }
        let lines = self.lines(now.mono);
        let whole = |e: &LedgerEntry| e.now.is_none() && e.told.is_none() && e.due <= now.mono;
        self.entries.retain(|_, entry| !whole(entry));
        let mut all: Vec<_> = self
            .entries
            .values()
            .filter_map(|e| e.now.clone())
            .collect();
        all.sort_by_key(|p| !p.blocks);
        (all, lines)
    }

    fn lines(&mut self, now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        for entry in self.entries.values_mut() {
            let current = entry.now.as_ref().filter(|p| !p.starting);
            let same = match (current, &entry.told) {
                (None, None) => true,
                (Some(a), Some(b)) => a.what == b.what,
                _ => false,
            };
            if same || entry.due.saturating_duration_since(now) >= ONE_MORE * BURST {
                continue;
            }
            entry.due = entry.due.max(now) + ONE_MORE;
            let current = current.cloned();
            let told = std::mem::replace(&mut entry.told, current.clone());
            lines.extend(current.map(Line::Problem).or(told.map(Line::Over)));
        }
        lines
    }
}

/// One of each subject; a few too many are one that counts them.
fn bounded(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|p| !p.blocks);
    let mut seen = std::collections::BTreeSet::new();
    problems.retain(|p| seen.insert(p.subject.clone()));
    if problems.len() > MAX {
        let more = problems.len() - MAX;
        problems.truncate(MAX);
        problems.push(Problem::new(
            "more",
            format!("{more} more problems are not shown"),
            "",
            "solve the others first",
        ));
    }
    problems
}

/// Target of these lines: they are changes already, and paced here.
pub(crate) const TARGET: &str = "mesh_agent::problems";

pub(super) fn write(lines: &[Line]) {
    for line in lines {
        match line {
            Line::Problem(p) => tracing::warn!(
                target: TARGET,
                about = p.subject,
                effect = p.effect,
                remedy = p.remedy,
                "problem: {}",
                p.what
            ),
            Line::Over(p) => {
                tracing::warn!(target: TARGET, about = p.subject, "over: {}", p.what);
            }
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(subject: &str, what: &str) -> Problem {
        Problem::new(subject, what, "", "")
    }

    struct Run {
        ledger: Ledger,
        start: Now,
    }

    impl Run {
        fn new() -> Self {
            Self {
                ledger: Ledger::default(),
                start: Now {
                    wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000),
                    mono: Instant::now(),
                },
            }
        }

        fn at(&mut self, seconds: u64, problems: &[Problem]) -> (Vec<Problem>, Vec<Line>) {
            let after = Duration::from_secs(seconds);
            let now = Now {
                wall: self.start.wall + after,
                mono: self.start.mono + after,
            };
            self.ledger.note(problems.to_vec(), now)
        }
    }

    #[test]
    fn a_problem_is_told_when_it_comes_changes_and_goes_and_keeps_its_time() {
        let mut run = Run::new();
        let (shown, lines) = run.at(0, &[problem("pod a", "no netns")]);
        assert_eq!(shown[0].since, 1_000);
        assert!(matches!(&lines[..], [Line::Problem(p)] if p.what == "no netns"));
        for second in 1..100 {
            let (shown, lines) = run.at(second, &[problem("pod a", "no netns")]);
            assert_eq!((shown[0].since, lines), (1_000, vec![]));
        }
        let (shown, lines) = run.at(100, &[problem("pod a", "no address")]);
        assert_eq!(shown[0].since, 1_000, "it is still the same one");
        assert!(matches!(&lines[..], [Line::Problem(p)] if p.what == "no address"));
        let (shown, lines) = run.at(101, &[]);
        assert_eq!(shown, []);
        assert!(matches!(&lines[..], [Line::Over(p)] if p.what == "no address"));
        assert_eq!(run.at(102, &[]).1, []);
    }

    #[test]
    fn one_that_comes_and_goes_is_told_a_few_times_and_the_last_state_always() {
        let mut run = Run::new();
        let told: usize = (0..60)
            .map(|s| match s % 2 {
                0 => run.at(s, &[problem("pod a", "x")]).1.len(),
                _ => run.at(s, &[]).1.len(),
            })
            .sum();
        assert!(told <= 8, "{told} lines in a minute");
        run.at(60, &[problem("pod a", "x")]);
        let later: Vec<_> = (61..120)
            .flat_map(|s| run.at(s, &[problem("pod a", "y")]).1)
            .collect();
        assert!(
            matches!(&later[..], [Line::Problem(p)] if p.what == "y"),
            "{later:?}"
        );
    }

    #[test]
    fn each_is_shown_once_what_blocks_first_and_their_number_is_bounded() {
        let mut run = Run::new();
        let all = [
            problem("a", "1"),
            problem("a", "2"),
            problem("b", "3").blocking(),
        ];
        let (shown, _) = run.at(0, &all);
        let whats: Vec<_> = shown.iter().map(|p| &*p.what).collect();
        assert_eq!(whats, ["3", "1"]);
        let many: Vec<_> = (0..5_000).map(|n| problem(&n.to_string(), "x")).collect();
        assert!(run.at(1, &many).0.len() <= MAX + 1);
        run.at(2, &[]);
        assert!(run.ledger.entries.len() <= 2 * MAX + 4);
        run.at(400, &[]);
        assert_eq!(run.ledger.entries.len(), 0);
    }

    #[test]
    fn what_belongs_to_every_start_is_shown_and_not_logged() {
        let mut run = Run::new();
        let (shown, lines) = run.at(0, &[problem("start", "starting").starting()]);
        assert_eq!((shown.len(), lines), (1, vec![]));
        assert_eq!(run.at(1, &[]), (vec![], vec![]));
    }
}

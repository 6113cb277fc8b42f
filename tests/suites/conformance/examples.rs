//! The examples of `docs/`, applied: what their comments say becomes of requests is asked for
//! between pods. That `mesh-agent explain` says the same is held by unit tests of the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_tests::{Agents, OnAgentDown, Pod, PodSpec, World, eventually, parse};
use serde_json::Value;

use super::{CALLS, HTTP, PYTHON, SERVER, peer};

/// Of requests where only a share is said.
const MANY: usize = 1_000;
/// Of the examples' Services `web` and `api`, which are never there together.
const VIP: &str = "10.96.0.10";
const ADMIN: u16 = 8081;

/// The pods that the Services of the examples select, each named as its label `app`, and
/// callers of three namespaces.
struct Shop {
    world: World,
    servers: Vec<Pod>,
    callers: [Pod; 3],
    agents: Agents,
}

fn folder(of: &str) -> PathBuf {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    docs.join(of)
}

/// Name and text of each, in order, but for the Services.
fn examples(of: &str) -> Vec<(String, String)> {
    let files = fs::read_dir(folder(of)).expect("the examples");
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    paths.retain(|path| !path.ends_with("services.yaml"));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a text");
        let name = path.file_name().expect("a name").to_string_lossy();
        (format!("{of}/{name}"), text)
    };
    paths.into_iter().map(read).collect()
}

impl Shop {
    /// With the Services of this folder.
    fn new(of: &str) -> Self {
        let mut world = World::new(2).expect("a world");
        let spec = |node, name, namespace| {
            let spec = PodSpec::new(node, name).enrolled(OnAgentDown::Closed);
            spec.namespace(namespace)
        };
        let callers = [("web-0", "shop"), ("tester", "tests"), ("ops-0", "admin")];
        let callers = callers.map(|(name, namespace)| {
            let account = name.trim_end_matches("-0");
            let spec = spec("n1", name, namespace).account(account);
            world.add(&spec).expect("a pod")
        });
        let servers = [
            ("n1", "web", "shop"),
            ("n2", "web-v2", "shop"),
            ("n2", "archive", "records"),
            ("n2", "api", "shop"),
        ];
        let servers = servers.map(|(node, name, namespace)| {
            let pod = world.add(&spec(node, name, namespace)).expect("a pod");
            // The Service is the example's.
            let file = world.config_dir().join(format!("{name}.yaml"));
            let both = fs::read_to_string(file).expect("its documents");
            let (own, _service) = both.split_once("---\n").expect("two documents");
            world.write_config(name, own).expect("a file");
            for (port, how) in [(HTTP, ""), (ADMIN, ""), (443, "names"), (9000, "names")] {
                let mut server = world.in_pod(&pod, PYTHON);
                server.args(["-c", SERVER, "serve", name, &port.to_string()]);
                server.args((!how.is_empty()).then_some(how));
                world.start_server(&pod, port, server).expect("a server");
            }
            let mut calls = world.in_pod(&pod, peer());
            calls.args(["serve-http", name, &CALLS.to_string()]);
            world.start_server(&pod, CALLS, calls).expect("a server");
            pod
        });
        let services = fs::read_to_string(folder(of).join("services.yaml")).expect("a text");
        let services = services
            .split("---\n")
            .filter(|d| d.contains("kind: Service\n"));
        let services = services.collect::<Vec<_>>().join("---\n");
        world.write_config("services", &services).expect("a file");
        let agents = Agents::start(&world, &[]).expect("agents");
        Self {
            world,
            servers: servers.into(),
            callers,
            agents,
        }
    }

    fn apply(&self, yaml: &str) {
        let read = self.agents.read_file(&self.world, "example", yaml);
        read.expect("in force");
    }

    fn client(&self, from: &Pod, args: &[&str]) -> Value {
        let mut client = self.world.in_pod(from, PYTHON);
        client.args(["-c", SERVER]).args(args);
        let told = parse(&client.output().expect("python runs"));
        told.unwrap_or_else(|problem| panic!("{args:?}: {problem:#}"))
    }

    /// How often that server was asked for this.
    fn seen(&self, server: &str, first: &str) -> usize {
        let pod = self.servers.iter().find(|pod| pod.name == server);
        let to = format!("{}:{HTTP}", pod.expect("a server").v4());
        let request = "GET /seen HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n";
        let told = self.client(&self.callers[0], &["raw", &to, request]);
        let got = told["got"].as_str().unwrap_or_default();
        let (_, list) = got.split_once("\r\n\r\n").unwrap_or_default();
        let list: Value = serde_json::from_str(list).expect("a list");
        let all = list.as_array().expect("a list").iter();
        all.filter(|one| one["first"] == first).count()
    }
}

/// A request of an example.
struct Question<'a> {
    from: &'a Pod,
    port: u16,
    method: &'a str,
    target: &'a str,
    lines: Vec<String>,
}

impl Question<'_> {
    fn text(&self) -> String {
        let lines: String = self
            .lines
            .iter()
            .map(|line| format!("{line}\\r\\n"))
            .collect();
        format!(
            "{} {} HTTP/1.1\\r\\n{lines}\\r\\n",
            self.method, self.target
        )
    }

    fn first(&self) -> String {
        format!("{} {} HTTP/1.1", self.method, self.target)
    }
}

/// Lines of a list of pairs with that name.
fn values<'a>(lines: &'a Value, name: &str) -> Vec<&'a str> {
    let lines = lines.as_array().into_iter().flatten();
    let of_name = lines.filter(|line| line[0] == name);
    of_name.filter_map(|line| line[1].as_str()).collect()
}

/// Within six times the standard deviation.
fn is_share(count: usize, of: usize, percent: &str) -> bool {
    let share: f64 = percent.parse::<f64>().expect("a number") / 100.0;
    let (count, of) = (count as f64, of as f64);
    (count - of * share).abs() <= 6.0 * (of * share * (1.0 - share)).sqrt()
}

/// `NAME N%`, or a name for all of them.
fn share(part: &str) -> (&str, &str) {
    let part = part.strip_suffix('%');
    part.and_then(|part| part.rsplit_once(' '))
        .unwrap_or(("", ""))
}

fn shares_agree(names: &[(String, usize)], parts: &[&str], of: usize) -> bool {
    let counted = |name: &str| names.iter().find(|(n, _)| n == name).map_or(0, |(_, n)| *n);
    let sum: usize = parts.iter().map(|part| counted(share(part).0)).sum();
    let each = |part: &&str| is_share(counted(share(part).0), of, share(part).1);
    sum == of && parts.iter().all(each)
}

impl Shop {
    /// `[from NAMESPACE:] [at PORT:] METHOD TARGET [name=value]…`, or `connect PORT [NAME]`;
    /// whether it comes to that.
    fn holds(&self, question: &str, said: &str) -> Result<(), String> {
        let mut words = question.split(' ').peekable();
        let (mut from, mut port) = (&self.callers[0], 80);
        loop {
            match words.next().expect("a word") {
                "from" if words.next() == Some("tests:") => from = &self.callers[1],
                "from" => return Err("no such caller".to_owned()),
                "at" => {
                    let number = words.next().expect("a port").trim_end_matches(':');
                    port = number.parse().expect("a port");
                }
                "connect" => {
                    let to = format!("{VIP}:{}", words.next().expect("a port"));
                    return self.connects(&to, words.next(), said);
                }
                method => {
                    let target = words.next().expect("a target");
                    let lines = words.map(|word| word.replacen('=', ": ", 1));
                    let lines = ["host: web".to_owned()].into_iter().chain(lines);
                    let question = Question {
                        from,
                        port,
                        method,
                        target,
                        lines: lines.collect(),
                    };
                    return match port {
                        CALLS => self.calls(&question, said),
                        _ => self.asks(question, said),
                    };
                }
            }
        }
    }

    fn connects(&self, to: &str, name: Option<&str>, said: &str) -> Result<(), String> {
        let told = match name {
            Some(name) => self.client(&self.callers[0], &["name_by_hello", to, name]),
            None => self.client(&self.callers[0], &["names_of", to, &MANY.to_string()]),
        };
        let agrees = match (name, said) {
            (Some(_), "NoRouteMatched") => told == "ConnectionResetError",
            (Some(_), said) => told == said,
            (None, said) => {
                let names = told.as_object().into_iter().flatten();
                let names = names.map(|(name, n)| (name.clone(), n.as_u64().unwrap_or(0) as usize));
                let parts: Vec<&str> = said.split(", ").collect();
                shares_agree(&names.collect::<Vec<_>>(), &parts, MANY)
            }
        };
        agrees.then_some(()).ok_or_else(|| told.to_string())
    }

    /// A call of gRPC: what no rule is for has its own status for it.
    fn calls(&self, question: &Question<'_>, said: &str) -> Result<(), String> {
        let mut curl = self.world.in_pod(question.from, "curl");
        curl.args(["-sSi", "--max-time", "20", "--http2-prior-knowledge"]);
        curl.args([
            "-X",
            question.method,
            "-H",
            "content-type: application/grpc",
        ]);
        curl.arg(format!("http://{VIP}:{CALLS}{}", question.target));
        let told = curl.output().expect("curl runs");
        let told = String::from_utf8_lossy(&told.stdout);
        let agrees = match said {
            "404" => told.contains("grpc-status: 12\r\n"),
            name => told.contains(&format!("\"name\":\"{name}\"")),
        };
        agrees.then_some(()).ok_or_else(|| told.into_owned())
    }

    fn asks(&self, mut question: Question<'_>, said: &str) -> Result<(), String> {
        let parts: Vec<&str> = said.split(", ").collect();
        // What is set is there before, what is added to, and what goes.
        for part in &parts {
            let of_answer = part.strip_prefix("answer ");
            let mut words = of_answer.unwrap_or(part).split([' ', ':']);
            if let (Some("set" | "add" | "remove"), Some(name)) = (words.next(), words.next()) {
                let says = of_answer.map_or("", |_| "x-answer: ");
                question.lines.push(format!("{says}{name}: own"));
            }
        }
        let is_many = parts.iter().any(|part| part.ends_with('%'));
        let count = if is_many { MANY } else { 1 };
        let copy = parts.iter().find_map(|part| part.strip_prefix("copy to "));
        let copy = copy.map(|to| to.split_once(' ').unwrap_or((to, "100%")));
        let copied = |to: &str| self.seen(to, &question.first());
        let before = copy.map(|(to, _)| copied(to));
        let to = format!("{VIP}:{}", question.port);
        let asked = ["asked", &to, &count.to_string(), &question.text()];
        let told = self.client(question.from, &asked);
        let answers = told.as_array().expect("answers");
        let names = |name: &str| answers.iter().filter(|a| a["told"]["name"] == name).count();
        for (i, part) in parts.iter().enumerate() {
            let fine = match share(part) {
                _ if i == 0 && part.starts_with(|c: char| c.is_ascii_digit()) => {
                    let (status, location) = part.split_once(' ').unwrap_or((part, ""));
                    let found = values(&answers[0]["headers"], "location");
                    answers[0]["status"].as_u64() == status.parse().ok()
                        && found.concat() == location
                }
                _ if i == 0 && !part.ends_with('%') => {
                    names(part.strip_prefix("implicit").map_or(part, |_| "web")) == count
                }
                _ if copy.is_some_and(|(to, _)| part.starts_with(&format!("copy to {to}"))) => {
                    let (to, percent) = copy.expect("a copy");
                    let percent = percent.trim_end_matches('%');
                    let before = before.expect("a number");
                    let more = || copied(to) - before;
                    eventually(Duration::from_secs(10), || is_share(more(), count, percent))
                }
                ("", _) => self.further(&question, part, answers)?,
                (name, percent) => is_share(names(name), count, percent),
            };
            if !fine {
                return Err(format!("{part}: the first of them: {}", answers[0]));
            }
        }
        Ok(())
    }

    /// What is said behind who answers.
    fn further(
        &self,
        question: &Question<'_>,
        part: &str,
        answers: &[Value],
    ) -> Result<bool, String> {
        let of_answer = part.strip_prefix("answer ");
        let lines = |answer: &Value| match of_answer {
            Some(_) => answer["headers"].clone(),
            None => answer["told"]["headers"].clone(),
        };
        let (verb, rest) = of_answer
            .unwrap_or(part)
            .split_once(' ')
            .expect("two words");
        let (name, value) = rest.split_once(": ").unwrap_or((rest, ""));
        let first = &answers[0]["told"]["first"];
        Ok(match verb {
            // Where it is a backend's, of its share alone.
            "set" => {
                let is_set = |a: &&Value| values(&lines(a), name) == [value];
                let set = answers.iter().filter(is_set);
                let by: Vec<&Value> = set.map(|answer| &answer["told"]["name"]).collect();
                let all = answers.iter().filter(|a| a["told"]["name"] == *by[0]);
                by.iter().all(|name| *name == by[0]) && all.count() == by.len()
            }
            "add" => answers
                .iter()
                .all(|a| values(&lines(a), name).contains(&value)),
            "remove" => answers
                .iter()
                .all(|a| !values(&lines(a), name).contains(&"own")),
            "host" => values(&lines(&answers[0]), "host") == [rest],
            "path" => *first == format!("{} {rest} HTTP/1.1", question.method),
            // All of that takes longer than the suite has time for.
            "within" => rest == "10s",
            "each" => self.asked_for("/silent", question).1 == 504,
            "2" => {
                let target = "/busy/0";
                let before = self.seen("web", &format!("GET {target} HTTP/1.1"));
                let (first, status) = self.asked_for(target, question);
                (self.seen("web", &first) - before, status) == (3, 503)
            }
            "session" => self.goes_on(question, rest, &answers[0])?,
            other => return Err(format!("what is {other}?")),
        })
    }

    /// Another path of the same rule: its first line, and the status that it gets.
    fn asked_for(&self, target: &str, question: &Question<'_>) -> (String, u64) {
        let other = Question {
            target,
            lines: question.lines.clone(),
            ..*question
        };
        let to = format!("{VIP}:{}", question.port);
        let told = self.client(question.from, &["asked", &to, "1", &other.text()]);
        let status = told[0]["status"].as_u64();
        (other.first(), status.unwrap_or_default())
    }

    /// `by cookie NAME`, or `by header NAME`: whoever says that again is answered by the same.
    fn goes_on(&self, question: &Question<'_>, how: &str, answer: &Value) -> Result<bool, String> {
        let (kind, name) = how.rsplit_once(' ').expect("a name");
        let line = match kind {
            "by cookie" => {
                let set = values(&answer["headers"], "set-cookie").concat();
                let pair = set.split(';').next().unwrap_or_default().to_owned();
                if !pair.starts_with(&format!("{name}=")) {
                    return Err(format!("no cookie {name}: {answer}"));
                }
                format!("cookie: {pair}")
            }
            _ => format!("{name}: {}", values(&answer["headers"], name).concat()),
        };
        let again = Question {
            lines: question.lines.iter().cloned().chain([line]).collect(),
            ..*question
        };
        let to = format!("{VIP}:{}", question.port);
        let told = self.client(question.from, &["asked", &to, "40", &again.text()]);
        let answers = told.as_array().expect("answers");
        let own = &answer["told"]["name"];
        Ok(own.is_string() && answers.iter().all(|a| a["told"]["name"] == *own))
    }
}

#[test]
fn each_example_of_a_route_does_to_requests_what_it_says() {
    let shop = Shop::new("routes");
    let mut asked = 0;
    let mut wrong = vec![];
    for (name, text) in examples("routes") {
        shop.apply(&text);
        let said = text.lines().filter_map(|line| line.strip_prefix("# > "));
        let said: Vec<_> = said.filter_map(|line| line.split_once(" -> ")).collect();
        assert!(!said.is_empty(), "{name} says nothing");
        for (question, expected) in said {
            let came = shop.holds(question, expected);
            let problem = came.err();
            wrong.extend(problem.map(|why| format!("{name}: {question} -> {expected}: {why}")));
            asked += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(asked >= 40, "{asked}");
}

/// `FROM [METHOD URL [HEADER LINE]]: allowed|refused|depends`; a connection alone says nothing
/// of what depends on requests.
#[test]
fn each_example_of_authorization_does_to_requests_what_it_says() {
    let shop = Shop::new("authorization");
    let mut asked = 0;
    let mut wrong = vec![];
    for (name, text) in examples("authorization") {
        shop.apply(&text);
        let said = text.lines().filter_map(|line| line.strip_prefix("# "));
        let said = said.filter_map(|line| line.rsplit_once(": "));
        for (words, said) in said.filter(|(_, said)| ["allowed", "refused"].contains(said)) {
            let mut words = words.splitn(4, ' ');
            let from = words.next().expect("who asks");
            let from = shop.callers.iter().find(|pod| from.ends_with(&pod.name));
            let from = from.unwrap_or_else(|| panic!("{name}: a caller"));
            let method = words.next().unwrap_or("GET");
            let url = words.next().unwrap_or("/");
            let (host, target) = match url.strip_prefix("http://") {
                Some(rest) => rest.split_at(rest.find('/').expect("a path")),
                None => ("api", url),
            };
            let own = words.next().map(str::to_owned);
            let lines = [format!("host: {host}")].into_iter().chain(own);
            let question = Question {
                from,
                port: 80,
                method,
                target,
                lines: lines.collect(),
            };
            let (_, status) = shop.asked_for(target, &question);
            let fine = match said {
                "allowed" => status == 200,
                // What begins like no request ends with its connection.
                _ if method == "get" => status == 0,
                // As one that has several meanings, it is no matter of the policy.
                _ => [400, 403].contains(&status),
            };
            if !fine {
                wrong.push(format!("{name}: {}: {status}, not {said}", question.text()));
            }
            asked += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(asked >= 30, "{asked}");
}

//! Roots that end, and the steps from one to the next.

use super::*;

#[test]
fn a_signing_certificate_that_ended_is_no_problem_once_another_one_signs() {
    let dir = tempfile::tempdir().expect("a directory");
    agents::after_its_root_ended(dir.path(), &[]);
    let handle = handle(dir.path());
    let web = id("web");
    assert_eq!(
        ask(&handle.ca, csr(&web), 0, web.as_str()),
        Err(Refusal::Internal)
    );
    let told = |handle: &Handle| match &handle.troubles()[..] {
        [trouble] => (trouble.blocks, trouble.remedy.clone()),
        troubles => panic!("{troubles:?}"),
    };
    let (blocks, remedy) = told(&handle);
    assert!(blocks && remedy.contains("ca rotate prepare"), "{remedy}");
    let state = dir.path().join("ca");
    rotate(&state, &Step::Prepare(None), false).expect("prepared");
    let (blocks, remedy) = told(&handle);
    assert!(
        blocks && !remedy.contains("prepare") && remedy.contains("ca rotate activate"),
        "{remedy}"
    );
    rotate(&state, &Step::Activate, false).expect("activated");
    // Without a request: none comes before it is ready.
    assert_eq!(handle.troubles(), []);
    assert!(handle.page().contains("mesh_ca_ready 1.0"));
}

#[test]
fn the_oldest_root_that_is_valid_serves() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    let domain = TrustDomain::new("cluster.local").expect("a domain");
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let of = |made: SystemTime| authority::Record::generate(&domain, made).expect("a root");
    let (ended, long) = (now - authority::ROOT_LIFETIME - day, now - day);
    let serving = |made: &[SystemTime]| {
        let records: Vec<_> = made.iter().map(|made| of(*made)).collect();
        let changed = ca.store.change(&mut |documents| {
            let mut file = state::authority_file(documents)?;
            file.signing.clone_from(&records[0].id);
            file.authorities.clone_from(&records);
            documents.put(records::AUTHORITY, &file)
        });
        changed.expect("changed");
        let loaded = ca.fresh().expect("a state");
        let serving = loaded.serving(now).map(|a| a.id.clone()).ok();
        records.iter().position(|r| Some(&r.id) == serving.as_ref())
    };
    assert_eq!(
        serving(&[long, now]),
        Some(0),
        "who pinned it needs no other one"
    );
    assert_eq!(serving(&[ended, now]), Some(1));
    assert_eq!(serving(&[ended, ended, long, now]), Some(2));
    assert_eq!(
        serving(&[now + day, now]),
        Some(1),
        "agents would not take it yet"
    );
    assert_eq!(
        serving(&[ended, now + day]),
        Some(1),
        "this clock may be the wrong one"
    );
    assert_eq!(serving(&[ended]), None);
}

#[test]
fn no_step_waits_for_certificates_of_a_root_that_has_ended() {
    let domain = TrustDomain::new("cluster.local").expect("a domain");
    let now = SystemTime::now();
    let of = |made: SystemTime| authority::Record::generate(&domain, made).expect("a root");
    let ended = of(now - authority::ROOT_LIFETIME - Duration::from_secs(86_400));
    for old in [ended.clone(), of(now)] {
        let new = of(now);
        // As in a cluster, where nobody knows which certificates live.
        let live = store::LiveCertificates::Unlisted {
            longest: 7_200,
            stale: 600,
        };
        let mut file = state::AuthorityFile {
            trust_domain: domain.to_string(),
            signing: old.id.clone(),
            signing_since: seconds(now),
            longest: 7_200,
            authorities: vec![old.clone(), new.clone()],
        };
        for step in ["activate", "retire"] {
            let next = state::next(&file, &live, seconds(now));
            let at_once = next.contains(&format!("{step}`, at once"));
            assert_eq!(at_once, old.id == ended.id, "{next}");
            file.signing.clone_from(&new.id);
        }
    }
}

#[test]
fn a_rotation_waits_for_certificates_that_would_break() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::open(config(dir.path())).expect("an authority");
    let state = ca.config.state_dir.clone();
    let roots = |chain: Vec<String>| chain.last().map_or(0, |r| r.matches("BEGIN").count());
    ask(&ca, csr(&id("a")), 60, id("a").as_str()).expect("a certificate");
    assert!(matches!(
        rotate(&state, &Step::Activate, true),
        Err(Error::Stage(_))
    ));
    rotate(&state, &Step::Prepare(None), false).expect("prepared");
    assert!(matches!(
        rotate(&state, &Step::Prepare(None), false),
        Err(Error::Stage(_))
    ));
    assert_eq!(
        ask(&ca, csr(&id("a")), 60, id("a").as_str()).map(roots),
        Ok(2),
        "seen without a restart"
    );
    assert!(matches!(
        rotate(&state, &Step::Retire, true),
        Err(Error::Stage(_))
    ));
    assert!(matches!(
        rotate(&state, &Step::Activate, false),
        Err(Error::TooEarly(_))
    ));
    rotate(&state, &Step::Activate, true).expect("activated");
    assert!(matches!(
        rotate(&state, &Step::Retire, false),
        Err(Error::TooEarly(_))
    ));
    rotate(&state, &Step::Retire, true).expect("retired");
    assert_eq!(
        ask(&ca, csr(&id("a")), 60, id("a").as_str()).map(roots),
        Ok(1)
    );
}

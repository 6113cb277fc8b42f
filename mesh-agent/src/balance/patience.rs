//! How long is waited for an endpoint of which it is doubtful that it answers, before
//! another one is asked.

use std::time::Duration;

use super::health::State;

/// So many times what another one takes.
const MUCH: f32 = 10.0;
/// In seconds; twice as long with each time that it was too short.
const LEAST: f32 = 0.1;
const OFTEN: u32 = 4;
/// In seconds. Nobody is to lose more time than that by it, unless others take as long, or
/// all that was waited for less was in vain: then it is longer now and then, so that one that
/// takes more than that, and works, comes back.
const MOST: f32 = 1.0;
const MOST_NOW_AND_THEN: f32 = 5.0;
const NOW_AND_THEN: u32 = 4;
/// Of so many others it is asked what they take.
const OTHERS: usize = 16;

/// `None`: its doubts are unfounded, or there is nobody else who answers.
pub(super) fn of<'s>(
    state: &State,
    is_probe: bool,
    (others, now): (impl Iterator<Item = &'s State>, u64),
) -> Option<Duration> {
    let failed = match is_probe {
        true => state.breaker.failed_probes(),
        false if state.voice.is_doubtful() => state.breaker.failed_requests(),
        false => return None,
    };
    let answers = |other: &&State| {
        let voice = &other.voice;
        other.breaker.is_closed() && voice.answers() && !voice.is_doubtful()
    };
    let take = others.take(OTHERS).filter(answers);
    let usual = take
        .map(|other| other.latency.seconds(now))
        .reduce(f32::min)?;
    Some(patience(usual, failed))
}

/// `usual`: what the quickest of the others takes, in seconds. `failed`: how often it was
/// too short, so that one that is slow, and works, has the time to show it.
fn patience(usual: f32, failed: u32) -> Duration {
    let is_longer = failed > OFTEN && (failed - OFTEN) % NOW_AND_THEN == 1;
    let (often, most) = match is_longer {
        true => (OFTEN + 2, MOST_NOW_AND_THEN),
        false => (OFTEN, MOST),
    };
    let least = LEAST * (1_u32 << failed.min(often)) as f32;
    let most = most.max(2.0 * usual);
    let seconds = (usual * MUCH).max(least).min(most);
    Duration::from_millis((seconds * 1000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_much_more_than_others_take_and_no_longer_than_clients_bear() {
        let ms = |usual: f32, failed| patience(usual / 1000.0, failed).as_millis();
        assert_eq!([ms(2.0, 0), ms(20.0, 0), ms(70.0, 0)], [100, 200, 700]);
        // One that takes 300 ms where others take 2 shows it with the third.
        assert_eq!(
            [0, 1, 2, 3, 4, 6, 7, 8, 60].map(|failed| ms(2.0, failed)),
            [100, 200, 400, 800, 1_000, 1_000, 1_000, 1_000, 1_000]
        );
        // One that takes seconds does so with the sixth.
        let longer = [5, 9, 61].map(|failed| ms(2.0, failed));
        assert_eq!(longer, [3_200, 5_000, 5_000]);
        assert_eq!(ms(400.0, 5), 4_000);
        // All are slow: it has as long as these take, and as long again.
        assert_eq!([ms(400.0, 0), ms(5_000.0, 0)], [1_000, 10_000]);
    }
}

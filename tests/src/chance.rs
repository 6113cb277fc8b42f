//! Numbers that a seed gives, for tests that try many orders.

/// A generator (splitmix64).
pub struct Chance(u64);

impl Chance {
    /// Another one each time, which is printed; MESH_SEED repeats a run.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "no default: it is another each time"
    )]
    pub fn new() -> Self {
        let given = std::env::var("MESH_SEED").ok();
        let seed = given.and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("MESH_SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

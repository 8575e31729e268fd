//! Where a workload writes: uniform, Zipf and sequential, from a seed.

/// A generator of numbers (splitmix64: Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`. The bias is below one in 2^32 for the sizes here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// A number from 0 to 1.
    pub fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Ranks by Zipf's law: rank r comes with a probability in proportion to r to the power of minus theta. After Gray et al.,
/// "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994), section 3.2.
#[derive(Debug, Clone)]
struct Zipf {
    count: f64,
    theta: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    fn new(count: u64, theta: f64) -> Self {
        let zeta_of = |count: u64| (1..=count).map(|rank| (rank as f64).powf(-theta)).sum::<f64>();
        let zeta = zeta_of(count);
        let exponent = 1.0 - theta;
        Self {
            count: count as f64,
            theta,
            zeta,
            eta: (1.0 - (2.0 / count as f64).powf(exponent)) / (1.0 - zeta_of(2) / zeta),
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the count"
    )]
    fn rank(&self, random: &mut Random) -> u64 {
        let fraction = random.fraction();
        let scaled = fraction * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(self.theta) {
            return 1;
        }
        let rank = self.count * (self.eta * fraction - self.eta + 1.0).powf(1.0 / (1.0 - self.theta));
        (rank as u64).min(self.count as u64 - 1)
    }
}

/// Which places are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Each as often as any other.
    Uniform,
    /// Some much more often than others, wherever they are: Zipf's law with an exponent of 0.99.
    Zipf,
    /// One after the other, and from the beginning again.
    Sequential,
}

impl Pattern {
    /// All.
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Zipf, Self::Sequential];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Sequential => "sequential",
        }
    }
}

/// Places of a workload.
#[derive(Debug, Clone)]
pub struct Places {
    count: u64,
    random: Random,
    zipf: Option<Zipf>,
    next: Option<u64>,
}

impl Places {
    /// Numbers below `count`, after a pattern.
    pub fn new(pattern: Pattern, count: u64, seed: u64) -> Self {
        Self {
            count,
            random: Random::new(seed),
            zipf: (pattern == Pattern::Zipf).then(|| Zipf::new(count, 0.99)),
            next: (pattern == Pattern::Sequential).then_some(0),
        }
    }

    /// The next one.
    pub fn next_place(&mut self) -> u64 {
        if let Some(next) = &mut self.next {
            let place = *next;
            *next = (place + 1) % self.count;
            return place;
        }
        match &self.zipf {
            Some(zipf) => spread(zipf.rank(&mut self.random), self.count),
            None => self.random.below(self.count),
        }
    }
}

/// Takes each number below `count` to another: neighbouring ranks are far apart on the volume.
fn spread(rank: u64, count: u64) -> u64 {
    // A prime that is larger than any count here divides none of them, so that multiplying by it loses nothing.
    const PRIME: u128 = 4_294_967_311;
    u64::try_from(u128::from(rank) * PRIME % u128::from(count)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_the_law() {
        let zipf = Zipf::new(1000, 0.99);
        let mut random = Random::new(1);
        let mut counts = vec![0_u32; 1000];
        for _ in 0..1_000_000 {
            counts[usize::try_from(zipf.rank(&mut random)).unwrap()] += 1;
        }
        for rank in [1_usize, 2, 10, 100] {
            let expected = 1e6 / zipf.zeta * (rank as f64).powf(-0.99);
            let found = f64::from(counts[rank - 1]);
            assert!(
                (found / expected - 1.0).abs() < 0.1,
                "rank {rank}: {found}, not {expected}"
            );
        }
    }

    #[test]
    fn every_place_is_met_once() {
        let mut places: Vec<u64> = (0..1024).map(|rank| spread(rank, 1024)).collect();
        places.sort_unstable();
        assert_eq!(places, (0..1024).collect::<Vec<_>>());
    }
}

//! The checks tested: each seeded fault of the core must be caught within so many seeds.
//!
//! A fault that is not caught is a hole in the checks or in the scenarios, and is closed there.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_core::mutation::Mutation;
use cairn_sim::check::Violation;
use cairn_sim::mutant::Mutant;
use cairn_sim::run::{Watch, run};
use cairn_sim::scenario::Scenario;

use crate::args::Arguments;
use crate::known::known_seed;

/// How a seeded fault fared.
struct Fate {
    mutation: Mutation,
    seeds: u64,
    took: Duration,
    caught: Option<(u64, Violation)>,
}

/// The seeded fault that was named.
pub(crate) fn named(arguments: &Arguments) -> Result<Mutant> {
    let Some(name) = &arguments.mutant else {
        return Ok(Mutant::default());
    };
    let mutation = Mutation::named(name).with_context(|| {
        let names: Vec<&str> = Mutation::ALL.iter().map(|mutation| mutation.name()).collect();
        format!("there is no seeded fault {name}; there are: {}", names.join(", "))
    })?;
    Ok(Mutant::of(mutation))
}

/// Runs every seeded fault, or the one that was named, until it is caught; false if one survives.
pub(crate) fn hunt(arguments: &Arguments, seeds_max: u64) -> Result<bool> {
    let wanted: Vec<Mutation> = match named(arguments)?.mutation {
        Some(mutation) => vec![mutation],
        None => Mutation::ALL.to_vec(),
    };
    let next = AtomicUsize::new(0);
    let fates = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                while let Some(mutation) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let fate = fate_of(*mutation, arguments, seeds_max);
                    tell(&fate);
                    if let Ok(mut fates) = fates.lock() {
                        fates.push(fate);
                    }
                }
            });
        }
    });
    let fates = fates.into_inner().unwrap_or_default();
    let survivors: Vec<&str> = fates
        .iter()
        .filter(|fate| fate.caught.is_none())
        .map(|fate| fate.mutation.name())
        .collect();
    println!(
        "{} of {} seeded faults were caught within {seeds_max} seeds each",
        fates.len() - survivors.len(),
        fates.len()
    );
    if !survivors.is_empty() {
        println!("not caught: {}", survivors.join(", "));
    }
    Ok(survivors.is_empty())
}

fn fate_of(mutation: Mutation, arguments: &Arguments, seeds_max: u64) -> Fate {
    let began = Instant::now();
    let watch = Watch {
        mutant: Mutant::of(mutation),
        ..Watch::default()
    };
    let mut fate = Fate {
        mutation,
        seeds: 0,
        took: Duration::ZERO,
        caught: None,
    };
    let known = arguments.known.then(|| known_seed(mutation));
    let mut seeds = known.into_iter().chain(arguments.start..);
    while fate.caught.is_none() && fate.seeds < seeds_max {
        let Some(seed) = seeds.next() else { break };
        fate.caught = run(&Scenario::draw(seed), watch)
            .violation
            .map(|violation| (seed, violation));
        fate.seeds += 1;
    }
    fate.took = began.elapsed();
    fate
}

fn tell(fate: &Fate) {
    let name = fate.mutation.name();
    match &fate.caught {
        Some((seed, violation)) => {
            let words = violation.message.lines().next().unwrap_or_default();
            let words: String = words.chars().take(90).collect();
            println!(
                "{name:<28} {:>4} seeds {:>6.1} s  {:?} (seed {seed}): {words}",
                fate.seeds,
                fate.took.as_secs_f64(),
                violation.check
            );
        }
        None => println!(
            "{name:<28} {:>4} seeds {:>6.1} s  SURVIVES",
            fate.seeds,
            fate.took.as_secs_f64()
        ),
    }
}

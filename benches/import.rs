//! `cargo bench --bench import`: the workload through `ratite import`, verified and trusted, against what the machine itself can do.

mod kit;

use std::fs;
use std::path::Path;

use clap::Parser;
use kit::options::{Program, Source};
use kit::pool::Lines;
use kit::report::{Table, median, number};
use kit::{Result, ceilings, process};
use ratite::nostr::Event;

/// Import of the workload, verified and not, against bare verification and a bare table
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    source: Source,
    /// How often each import runs; medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[command(flatten)]
    program: Program,
}

/// What `ratite import` brings into one transaction, in bytes of the file: the first into an empty database, and any further.
const FIRST_BATCH_BYTES: usize = 256 << 20;
const BATCH_BYTES: usize = 72 << 20;

fn main() -> Result<()> {
    if !kit::wanted() {
        return Ok(());
    }
    let args = Args::parse();
    let file = args.source.file()?;
    let lines = Lines::read(&file)?;
    println!(
        "{} events, {} MB of JSONL, mean {} bytes\n",
        lines.len(),
        lines.bytes() / 1_000_000,
        lines.bytes() / lines.len().max(1)
    );

    let mut rates = Vec::new();
    let mut table = Table::new(&[
        "import",
        "events/s",
        "CPU µs/event",
        "of its ceiling",
        "peak MiB",
        "database MB",
        "database/JSONL",
    ]);
    // Ceilings first and after every import: on a shared machine both see the same weather.
    let mut verification = Vec::new();
    let mut puts = Vec::new();
    let mut runs: [Vec<(process::Run, u64)>; 2] = [Vec::new(), Vec::new()];
    for round in 0..args.rounds {
        if !args.source.unsigned {
            verification.push(ceilings::verification(&lines, 50_000)?);
        }
        puts.push(bare_puts(&lines)?);
        for (kind, runs) in runs.iter_mut().enumerate() {
            if kind == 0 && args.source.unsigned {
                continue;
            }
            runs.push(import(&args, &file, kind == 1, round)?);
        }
    }
    let verify_rate = median(verification.iter().map(|v| v.per_second));
    let put_rate = median(puts.iter().map(|p| p.per_second));
    for (name, runs, ceiling) in [("verified", &runs[0], verify_rate), ("not verified", &runs[1], put_rate)] {
        if runs.is_empty() {
            continue;
        }
        let count = lines.len() as f64;
        let rate = median(runs.iter().map(|(run, _)| count / run.seconds));
        let bytes = median(runs.iter().map(|(_, bytes)| *bytes as f64));
        table.row(vec![
            name.into(),
            number(rate),
            number(median(runs.iter().map(|(run, _)| run.cpu_seconds / count * 1e6))),
            number(rate / ceiling),
            number(median(runs.iter().map(|(run, _)| run.peak_mib))),
            number(bytes / 1e6),
            number(bytes / lines.bytes() as f64),
        ]);
        rates.push(rate);
    }
    if !verification.is_empty() {
        let micros = median(verification.iter().map(|v| v.micros));
        table.row(vec!["ceiling: signatures alone, all cores".into(), number(verify_rate), number(micros)]);
    }
    let micros = median(puts.iter().map(|p| p.cpu_micros));
    let mut row = vec!["ceiling: one bare table, same commits".into(), number(put_rate), number(micros)];
    row.extend(["".into(), "".into(), number(puts.last().map_or(0.0, |p| p.bytes as f64 / 1e6))]);
    table.row(row);
    table.print();
    if let Some((run, _)) = runs[1].last() {
        println!("{}", run.output);
    }
    Ok(())
}

fn import(args: &Args, file: &Path, trusted: bool, round: usize) -> Result<(process::Run, u64)> {
    let folder = process::scratch(&format!("import-{round}"))?;
    let mut command = args.program.command(&folder, ["import"]);
    command.arg(file);
    if trusted {
        command.arg("--no-verify");
    }
    // 2 says that some lines were refused: a dump may hold what is against a rule.
    let run = process::run(command, &[2])?;
    let bytes = process::folder_bytes(&folder);
    fs::remove_dir_all(folder)?;
    Ok((run, bytes))
}

/// The same records in the same order with the same commits, and nothing else.
fn bare_puts(lines: &Lines) -> Result<ceilings::Puts> {
    let mut records = Vec::with_capacity(lines.len());
    for line in lines.iter() {
        if let Ok(event) = Event::parse(line) {
            let mut record = Vec::new();
            ratite::store::encode(&event, &mut record);
            records.push(record);
        }
    }
    let mean = lines.bytes() / lines.len().max(1);
    let folder = process::scratch("puts")?;
    let batch = if lines.bytes() <= FIRST_BATCH_BYTES { FIRST_BATCH_BYTES } else { BATCH_BYTES };
    let puts = ceilings::puts(&folder, records.iter().map(Vec::as_slice), batch / mean.max(1), None)?;
    fs::remove_dir_all(folder)?;
    Ok(puts)
}

//! Validates a package on its data set with the hardware model: accuracy and cost. Or sweeps the hardware.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser};
use mars::cli::{CommonArgs, check_new, exit, folder, parse, say};
use mars::data::{DataOptions, Dataset};
use mars::error::{DataError, Error, Result};
use mars::estimate::{Assumptions, Estimate, Pattern, SPARSITY, named_network};
use mars::hardware::{Evaluator, Hardware};
use mars::integer::BITS;
use mars::network::NetworkSpec;
use mars::package::{Package, is_package};
use mars::report::{self, Compared, Subject, hardware_list};
use mars::run_folder::{HARDWARE, PACKAGE, RECIPE, RunLock};
use mars::simd::isa_limit;
use mars::sweep::{Shard, Space, Sweep, Swept};
use mars::validation::{partial_sums, validate, vectors};

/// The search for a mapping makes and drops many small vectors.
#[cfg(feature = "train")]
#[global_allocator]
static ALLOCATOR: mars::train::Allocator = mars::train::Allocator;

/// What may be named.
const USAGE: &str = "mars-deploy [OPTIONS] <PACKAGE>
       mars-deploy [OPTIONS] --model <MODEL>
       mars-deploy [OPTIONS] [PACKAGE] --compare <FILE> <FILE>...
       mars-deploy --list-hardware";

/// Run a package on the hardware model: is it what training promised, and what does it cost? Or cost a network that nobody has trained.
#[derive(Parser, Debug)]
#[command(version, override_usage = USAGE, allow_negative_numbers = true)]
struct Arguments {
    /// The package, model.mars
    #[arg(required_unless_present_any = ["model", "list_hardware", "compare", "write_hardware"])]
    package: Option<PathBuf>,
    /// Cost a network without weights or data instead: a name of the zoo, a TOML or an ONNX file, or a package .mars
    #[arg(long, conflicts_with_all = ["package", "dataset", "images", "data_dir", "data_url"])]
    model: Option<String>,
    /// Hardware file, TOML [default: the built-in mars.toml]
    #[arg(long, value_name = "FILE")]
    hardware: Option<PathBuf>,
    /// Data set [default: the one that it was trained on]
    #[arg(long)]
    dataset: Option<String>,
    /// Validate on the first N test images only
    #[arg(long, value_name = "N")]
    images: Option<usize>,
    /// Write report.html, deploy.json and drawings into this folder; with --sweep its rows [default: runs/sweep-NAME]
    #[arg(long = "run", value_name = "DIR", value_parser = folder())]
    folder: Option<PathBuf>,
    /// Write the report's drawings into this folder as SVG files
    #[arg(long, value_name = "DIR", value_parser = folder())]
    svg: Option<PathBuf>,
    /// Cost on every chip of a sweep file instead, TOML; an interrupted sweep continues
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hardware", "images", "json", "svg"])]
    sweep: Option<PathBuf>,
    /// Do only part I of N of the sweep; the last one to finish merges all
    #[arg(long, value_name = "I/N", requires = "sweep", conflicts_with = "merge")]
    shard: Option<Shard>,
    /// Only merge the parts of the sweep
    #[arg(long, requires = "sweep")]
    merge: bool,
    /// Costs side by side instead: hardware files with the package or --model, packages with --hardware; --run writes compare.html
    #[arg(long, value_name = "FILE", num_args = 2.., conflicts_with_all = ["sweep", "images", "dataset", "svg"])]
    compare: Vec<PathBuf>,
    /// How the partial sums of each layer are distributed instead, and what the chip's converter loses of them
    #[arg(long, conflicts_with_all = ["model", "sweep", "compare", "folder", "svg", "placements"])]
    partial_sums: bool,
    /// Write what each layer stores for the images of --images into this safetensors file instead, to hold RTL or a chip against
    #[arg(long, value_name = "FILE", requires = "images", conflicts_with_all = ["model", "sweep", "compare", "folder", "svg", "placements", "partial_sums", "json"])]
    vectors: Option<PathBuf>,
    /// Where each layer lies on the chip instead, and what its next best placement would cost
    #[arg(long, conflicts_with_all = ["images", "dataset", "sweep", "compare", "folder", "svg"])]
    placements: bool,
    /// Only write the chip of --hardware with all keys of its base into this file, to begin one of your own
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["package", "model", "sweep", "compare", "folder", "svg", "dataset", "images", "partial_sums", "placements", "json", "data_dir", "data_url"]
    )]
    write_hardware: Option<PathBuf>,
    /// List the hardware files that are part of the program: chips of the project, and published ones
    #[arg(long)]
    list_hardware: bool,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    untrained: Untrained,
}

/// What is assumed of a network that nobody has trained.
#[derive(Args, Debug)]
#[command(next_help_heading = "With --model")]
struct Untrained {
    /// Bits of a weight, 2 to 8, but in the first and last layer
    #[arg(long, value_name = "BITS", default_value_t = 8, conflicts_with = "package", requires = "model")]
    weight_bits: u8,
    /// Bits of a layer's input, 2 to 8, but in the first and last layer
    #[arg(long, value_name = "BITS", default_value_t = 8, conflicts_with = "package", requires = "model")]
    activation_bits: u8,
    /// Bits of both in the first and last layer, 2 to 8; the image has 8
    #[arg(long, value_name = "BITS", default_value_t = 8, conflicts_with = "package", requires = "model")]
    first_last_bits: u8,
    /// Share of the groups that is zero, 0 to below 1; of all layers but the first and the last
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, conflicts_with = "package", requires = "model")]
    sparsity: f64,
    /// Where they are: large-layers, those with at least half as many input channels as the one with the most, which training comes near to; or even, the same share of each layer
    #[arg(
        long,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        conflicts_with = "package",
        requires = "model"
    )]
    pattern: Pattern,
    /// Height and width of an image [default: 32; 224 for NAME_imagenet; a file says its own]
    #[arg(long, value_name = "SIDE", conflicts_with = "package", requires = "model")]
    image_size: Option<usize>,
    /// Classes [default: 10; 1000 for NAME_imagenet; a file says its own]
    #[arg(long, value_name = "N", conflicts_with = "package", requires = "model")]
    classes: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = parse::<Arguments>("list_hardware");
    if !arguments.compare.is_empty() {
        return exit(isa_limit().and_then(|_| compare(&arguments)));
    }
    if let Some(file) = &arguments.write_hardware {
        return exit(write_hardware(&arguments, file));
    }
    exit(isa_limit().and_then(|_| match (&arguments.package, &arguments.model, &arguments.sweep) {
        (_, _, Some(file)) => explore(&arguments, file),
        (_, _, None) if arguments.placements => lay(&arguments),
        (Some(package), _, None) if arguments.partial_sums => distribute(&arguments, package),
        (Some(package), _, None) if arguments.vectors.is_some() => write_vectors(&arguments, package),
        (Some(package), _, None) => deploy(&arguments, package),
        (None, Some(model), _) => estimate(&arguments, model),
        // Neither a package nor a model: the list was asked for.
        (None, None, _) => {
            say(&hardware_list()?)?;
            Ok(ExitCode::SUCCESS)
        }
    }))
}

fn deploy(arguments: &Arguments, file: &Path) -> Result<ExitCode> {
    check_images(arguments)?;
    let package = Package::read(file)?;
    let hardware = hardware(arguments)?;
    let _lock = lock_run(arguments, Some(&package), &hardware)?;
    let dataset = dataset(arguments, file, &package)?;
    if let Some(folder) = arguments.folder.as_ref().filter(|folder| folder.join(RECIPE).exists())
        && dataset.test.sha256() != package.provenance.data_sha256
    {
        return Err(Error::file(folder, OF_RUN));
    }
    let mut deployment = validate(&package, &hardware, &dataset.test, arguments.images, &*arguments.common.observer())?;
    deployment.dataset = Some(dataset.name);
    present(arguments, (&deployment).into())?;
    deployment.check_agreement(file)?;
    Ok(ExitCode::SUCCESS)
}

/// Tells how partial sums are distributed over images.
fn distribute(arguments: &Arguments, file: &Path) -> Result<ExitCode> {
    check_images(arguments)?;
    let package = Package::read(file)?;
    let hardware = hardware(arguments)?;
    let dataset = dataset(arguments, file, &package)?;
    let observer = arguments.common.observer();
    let found = partial_sums(&package.network, &hardware, &dataset.test, arguments.images, &*observer)?;
    arguments.common.show(|| found.to_json(), &report::partial_sums_table(&found, &hardware))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes what each layer stores.
fn write_vectors(arguments: &Arguments, package: &Path) -> Result<ExitCode> {
    check_images(arguments)?;
    let (Some(file), Some(images)) = (&arguments.vectors, arguments.images) else {
        unreachable!("one needs the other");
    };
    check_new(file)?;
    let read = Package::read(package)?;
    let hardware = hardware(arguments)?;
    let dataset = dataset(arguments, package, &read)?;
    let found = vectors(&read.network, &hardware, &dataset.test, images, &*arguments.common.observer())?;
    let compared = match &found.first_difference {
        None => "all codes are those of the integer network".into(),
        Some(layer) if hardware.losses_sha256().is_none() => {
            let message =
                format!("its executions differ from {layer} on, which nothing explains: this is a bug to report");
            return Err(Error::file(package, message));
        }
        Some(layer) => format!("the chip is lossy, and codes differ from the integer network's from {layer} on"),
    };
    found.save(file)?;
    say(&format!(
        "{}: {} of the test images on {}, {} arrays; {compared}\n",
        file.display(),
        found.images,
        hardware.name,
        found.arrays.len()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Tells where layers lie.
fn lay(arguments: &Arguments) -> Result<ExitCode> {
    let hardware = hardware(arguments)?;
    let network = match (&arguments.package, &arguments.model) {
        (Some(file), _) => Package::read(file)?.network,
        (None, Some(model)) => untrained(arguments, model, &hardware)?.integer,
        (None, None) => return Err(Error::Arguments("--placements: name a package or a --model".into())),
    };
    let found = Evaluator::new(&network)?.placements(&hardware)?;
    let table = report::placements_table(&found, &network.graph.spec().name, &hardware.name);
    arguments.common.show(|| found.to_json(), &table)?;
    Ok(ExitCode::SUCCESS)
}

fn check_images(arguments: &Arguments) -> Result<()> {
    match arguments.images {
        Some(0) => Err(Error::Arguments("--images 0: at least one image is needed".into())),
        Some(_) | None => Ok(()),
    }
}

/// Costs a network that nobody has trained.
fn estimate(arguments: &Arguments, model: &str) -> Result<ExitCode> {
    let hardware = hardware(arguments)?;
    let _lock = lock_run(arguments, None, &hardware)?;
    present(arguments, (&untrained(arguments, model, &hardware)?).into())?;
    Ok(ExitCode::SUCCESS)
}

/// A network that nobody has trained, on a chip.
fn untrained(arguments: &Arguments, model: &str, hardware: &Hardware) -> Result<Estimate> {
    let (network, assumptions) = arguments.untrained.network(model)?;
    Estimate::new(network, assumptions, hardware)
}

impl Untrained {
    fn network(&self, model: &str) -> Result<(NetworkSpec, Assumptions)> {
        let Self { weight_bits, activation_bits, first_last_bits, sparsity, pattern, image_size, classes } = *self;
        for (option, bits) in
            [("weight-bits", weight_bits), ("activation-bits", activation_bits), ("first-last-bits", first_last_bits)]
        {
            if !BITS.contains(&bits) {
                return Err(Error::Arguments(format!("--{option} {bits}: it must be from 2 to 8")));
            }
        }
        if !SPARSITY.contains(&sparsity) {
            return Err(Error::Arguments(format!("--sparsity {sparsity}: it is a share, from 0 to below 1")));
        }
        let assumptions = Assumptions { weight_bits, activation_bits, first_last_bits, sparsity, pattern };
        Ok((named_network(model, image_size, classes)?, assumptions))
    }
}

/// Costs chips or packages, and shows them side by side.
fn compare(arguments: &Arguments) -> Result<ExitCode> {
    check_compare(arguments)?;
    let package = arguments.package.as_deref().map(Package::read).transpose()?;
    let comparison = Comparison { arguments, own_chip: hardware(arguments)?, package };
    // One that cannot work is said behind the others.
    let (mut all, mut refused) = (Vec::new(), Vec::new());
    for (name, file) in distinct_names(&arguments.compare).into_iter().zip(&arguments.compare) {
        match comparison.entry(name, file) {
            Ok(it) => all.push(it),
            Err(error @ Error::Arguments(_)) => return Err(error),
            Err(error) => refused.push(error.to_string()),
        }
    }
    if !all.is_empty() {
        let _lock = arguments.folder.as_deref().map(lock_own).transpose()?;
        arguments.common.show(|| report::comparison_json(&all), &report::comparison_table(&all))?;
        if let Some(folder) = &arguments.folder {
            report::write_comparison(&all, folder)?;
        }
    }
    match refused.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        refused => Err(Error::Setting(refused.join("; "))),
    }
}

/// Refuses what says nothing about the files of `--compare`.
fn check_compare(arguments: &Arguments) -> Result<()> {
    let Arguments { compare, package, model, hardware, .. } = arguments;
    let packages = compare.iter().filter(|file| is_package(file)).count();
    let (only_packages, only_chips) = (packages == compare.len(), packages == 0);
    let of_packages = "packages, which have their own networks";
    let (what, compared) = match () {
        () if only_packages && package.is_some() => ("a package before --compare", of_packages),
        () if only_packages && model.is_some() => ("--model", of_packages),
        () if only_chips && hardware.is_some() => ("--hardware", "chips"),
        () => return Ok(()),
    };
    Err(Error::Arguments(format!(
        "{what} says nothing where --compare names {compared}: leave it out, or put it among them"
    )))
}

/// What the files of `--compare` are costed with.
struct Comparison<'a> {
    arguments: &'a Arguments,
    own_chip: Hardware,
    package: Option<Package>,
}

impl Comparison<'_> {
    /// Costs what a file holds.
    fn entry(&self, name: String, file: &Path) -> Result<Compared> {
        if is_package(file) {
            return of_package(name, &Package::read(file)?, &self.own_chip);
        }
        match (&self.package, &self.arguments.model) {
            (Some(package), _) => of_package(name, package, &Hardware::load(file)?),
            (None, None) => {
                let message = "a chip is compared with others by a network: name a package or --model";
                Err(Error::Arguments(format!("{}: {message}", file.display())))
            }
            (None, Some(model)) => {
                let chip = Hardware::load(file)?;
                let estimate = untrained(self.arguments, model, &chip).map_err(|error| named(&name, error))?;
                let Estimate { network, made_up, evaluation, .. } = estimate;
                Ok(Compared { name, network, made_up: Some(made_up.what), evaluation })
            }
        }
    }
}

/// Costs a package's network on a chip.
fn of_package(name: String, package: &Package, chip: &Hardware) -> Result<Compared> {
    let network = package.network.graph.spec().name.clone();
    let evaluation = Evaluator::new(&package.network).and_then(|it| it.evaluate(chip));
    let evaluation = evaluation.map_err(|error| named(&name, error))?;
    Ok(Compared { name, network, made_up: None, evaluation })
}

/// An error of what cannot be costed, with its name; a file that cannot be read is named already.
fn named(name: &str, error: Error) -> Error {
    match error {
        Error::Arguments(_) => error,
        error => Error::Setting(format!("{name}: {error}")),
    }
}

/// The names of files without what they have in common: a chip's is its stem, a package's that of its folder, with more folders where they are alike.
fn distinct_names(files: &[PathBuf]) -> Vec<String> {
    let name = |file: &PathBuf, parts: usize| -> String {
        let path = match file.parent().filter(|folder| is_package(file) && folder.file_name().is_some()) {
            Some(folder) => folder.to_owned(),
            None => file.with_extension(""),
        };
        let all: Vec<_> = path.iter().filter(|part| *part != "/").map(|part| part.to_string_lossy()).collect();
        all[all.len().saturating_sub(parts)..].join("/")
    };
    let names = |parts: usize| files.iter().map(|file| name(file, parts)).collect::<Vec<_>>();
    let are_distinct = |names: &Vec<String>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let most = files.iter().map(|file| file.iter().count()).max().unwrap_or(1);
    (1..=most).map(names).find(are_distinct).unwrap_or_else(|| names(most))
}

/// Prints the table and writes what was asked for.
fn present(arguments: &Arguments, subject: Subject) -> Result<()> {
    arguments.common.show(|| subject.to_json(), &report::table(subject))?;
    if let Some(folder) = &arguments.folder {
        report::write(subject, folder)?;
    }
    if let Some(folder) = &arguments.svg {
        report::write_drawings(subject, folder)?;
    }
    Ok(())
}

/// The chip that was named, or the built-in one.
fn hardware(arguments: &Arguments) -> Result<Hardware> {
    arguments.hardware.as_deref().map_or_else(|| Ok(Hardware::mars()), Hardware::load)
}

/// Writes the chip that was named as a file that needs no other one.
fn write_hardware(arguments: &Arguments, file: &Path) -> Result<ExitCode> {
    check_new(file)?;
    let named = arguments.hardware.as_deref().unwrap_or(Path::new("experiments/hardware/mars.toml"));
    Hardware::write_whole(named, file)?;
    say(&format!(
        "{0} is written; mars-deploy --model resnet20 --hardware {0} costs a network on it\n",
        file.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What is said where a run's report would become another one.
const OF_RUN: &str = "it holds a run, whose report is of its own model.mars on its own hardware.toml over all its test images: name another folder";

/// Locks the folder of a run, which takes what its own package gives on its own chip over all test images, and nothing else.
fn lock_run(arguments: &Arguments, package: Option<&Package>, hardware: &Hardware) -> Result<Option<RunLock>> {
    let Some(folder) = &arguments.folder else { return Ok(None) };
    let lock = RunLock::of_run(folder)?;
    if !folder.join(RECIPE).exists() {
        return Ok(lock);
    }
    let own_data =
        arguments.dataset.as_ref().is_none_or(|name| package.is_some_and(|own| *name == own.provenance.dataset));
    let own = own_data
        && arguments.images.is_none()
        && Package::read(&folder.join(PACKAGE)).is_ok_and(|own| package == Some(&own))
        && Hardware::load(&folder.join(HARDWARE)).is_ok_and(|own| own == *hardware);
    if own { Ok(lock) } else { Err(Error::file(folder, OF_RUN)) }
}

/// Locks a folder that is to hold a comparison or a sweep, and holds no run.
fn lock_own(folder: &Path) -> Result<Option<RunLock>> {
    let lock = RunLock::of_run(folder)?;
    match folder.join(RECIPE).exists() {
        true => Err(Error::file(folder, "it holds a run: name another folder")),
        false => Ok(lock),
    }
}

/// The data set that was named, or the package's.
fn dataset(arguments: &Arguments, file: &Path, package: &Package) -> Result<Dataset> {
    let name = arguments.dataset.as_deref().unwrap_or(&package.provenance.dataset);
    // Images are scaled as they were for training.
    let [channels, height, width] = package.network.graph.spec().input;
    let options = DataOptions {
        image_size: Some([height, width]),
        channels: Some(channels),
        classes: Some(package.network.classes.clone()),
        ..arguments.common.data()
    };
    let dataset = Dataset::load_with(name, &options, &*arguments.common.observer()).map_err(|error| match error {
        DataError::Unknown { .. } if arguments.dataset.is_none() => Error::file(
            file,
            format!("it was trained on `{name}`, which isn't here: --dataset names where its images lie"),
        ),
        error => error.into(),
    })?;
    let classes = [package.network.classes.len(), dataset.classes.len()];
    if classes[0] != classes[1] {
        let message =
            format!("it has {} classes, data set `{name}` has {}: name another --dataset", classes[0], classes[1]);
        return Err(Error::file(file, message));
    }
    Ok(dataset)
}

/// Costs a network on every chip of a sweep's part, and merges all parts once none is missing.
fn explore(arguments: &Arguments, file: &Path) -> Result<ExitCode> {
    let space = Space::load(file)?;
    let swept = match (&arguments.package, &arguments.model) {
        (Some(package), _) => swept_package(arguments, package, &space, file)?,
        (None, Some(model)) => {
            if space.images().is_some() {
                let message = format!("images: nobody has trained {model}, which has no accuracy; leave the key out");
                return Err(Error::file(file, message));
            }
            let (network, assumptions) = arguments.untrained.network(model)?;
            Swept::untrained(&network, assumptions, &space)?
        }
        (None, None) => return Err(Error::Arguments("--sweep: name a package or a --model".into())),
    };
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let folder = arguments.folder.clone().unwrap_or_else(|| Path::new("runs").join(format!("sweep-{name}")));
    let _lock = lock_own(&folder)?;
    let sweep = Sweep::new(space, swept, &folder)?;
    if !arguments.merge {
        sweep.run(arguments.shard.unwrap_or(Shard::WHOLE), &*arguments.common.observer())?;
    }
    sweep.merge(|rows| {
        let missing = sweep.points() - rows.len();
        if missing == 0 {
            report::write_sweep(rows, sweep.made_up(), &folder)?;
            let table = report::sweep_table(rows, sweep.made_up());
            say(&format!("{table}sweep.html, sweep.csv, sweep.jsonl and sweep.svg are in {}\n", folder.display()))?;
            if rows.iter().all(|row| row.figures().is_none()) {
                return Err(Error::file(file, "none of its chips can work: the table says why"));
            }
        } else if arguments.merge {
            let shards: Vec<String> = sweep.unfinished(rows)?.iter().map(Shard::to_string).collect();
            let message =
                format!("{missing} of {} points have no row: run --shard {}", sweep.points(), shards.join(", "));
            return Err(Error::file(&folder, message));
        } else {
            say(&format!("{missing} of {} points are left to other shards\n", sweep.points()))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The package that a sweep is of, with its images where the sweep asks for accuracy.
fn swept_package(arguments: &Arguments, file: &Path, space: &Space, sweep: &Path) -> Result<Swept> {
    if let (None, Some(name)) = (space.images(), &arguments.dataset) {
        let message = format!("--dataset {name}: this sweep runs no images; it needs the key images to run some");
        return Err(Error::file(sweep, message));
    }
    let package = Package::read(file)?;
    let test = space.images().map(|_| dataset(arguments, file, &package)).transpose()?.map(|dataset| dataset.test);
    Swept::package(package, test)
}

//! Trains or fine-tunes a network with compression, exports it and runs the hardware model.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::builder::NonEmptyStringValueParser;
use mars::cli::{CommonArgs, check_new, exit, folder, parse, say, stop_on_interrupt};
use mars::data::DataOptions;
use mars::error::{Error, Result};
use mars::report;
use mars::run::{Cpu, Environment, Outcome, Plan, catalog, describe};
use mars::run_folder::{PACKAGE, REPORT};
use mars::simd::isa_limit;
use mars::terminal::notice;
use mars::train::{Allocator, DEFAULT_DEVICE, Recipe, assignment, keep_memory};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Train a network with batch norm fused into quantized weights and with groups of zeros in the shape of a computing-in-memory
/// array; export it to model.mars; run it on the hardware model.
#[derive(Parser, Debug)]
#[command(version, allow_negative_numbers = true)]
struct Arguments {
    /// Data set: cifar10, cifar100, cifar10-mini (part of the program), a folder of images by class, a folder of IDX files or an .npz file [default: the
    /// recipe's]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    dataset: Option<String>,
    /// Network: a name of the zoo, a TOML file, or an ONNX file or a package .mars with its weights [default: the recipe's]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    model: Option<String>,
    /// Checkpoint to start from: .safetensors, .pt, .pth, .th, where FILE#KEY takes the weights behind KEY; .onnx; a package .mars; or "none" for random weights
    /// [default: the recipe's, else the model file's own or for CIFAR checkpoints/MODEL.safetensors, else none]
    #[arg(long, value_name = "FILE", value_parser = NonEmptyStringValueParser::new())]
    pretrained: Option<String>,
    /// Layer that is trained anew instead of taken from the checkpoint, by its name in the network or in the checkpoint (repeatable)
    #[arg(long, value_name = "LAYER")]
    fresh: Vec<String>,
    /// Recipe, a TOML file
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Set a key of the recipe, e.g. quantize.weight_bits=4 or phases.0.epochs=2 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Hardware file, TOML [default: the recipe's, else the built-in mars.toml]
    #[arg(long, value_name = "FILE", value_parser = NonEmptyStringValueParser::new())]
    hardware: Option<String>,
    /// Seed of weights, order and augmentation
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Device: flex, ndarray, or one that the build was made with
    #[arg(long, default_value = DEFAULT_DEVICE)]
    device: String,
    /// Run folder [default: runs/MODEL-DATASET-N]
    #[arg(long = "run", value_name = "DIR", value_parser = folder())]
    folder: Option<PathBuf>,
    /// Go on with the run in --run DIR
    #[arg(long)]
    resume: bool,
    /// With --resume: go on where the CPU or the device computes other bits than the one before
    #[arg(long, requires = "resume")]
    allow_other_cpu: bool,
    /// Report the accuracy of the weights to start from on the test images, in float, without training; --json writes each image's logits too
    #[arg(long, conflicts_with_all = ["resume", "folder"])]
    evaluate: bool,
    /// Check data, checkpoint, network and chip, measure a few steps, and tell how long the run would take and how much memory; nothing is written
    /// but a data set that has to be downloaded
    #[arg(long, conflicts_with_all = ["evaluate", "resume", "json"])]
    dry_run: bool,
    /// Write the network as TOML to this file, without training
    #[arg(long, value_name = "FILE", conflicts_with_all = ["evaluate", "resume", "dry_run", "json"])]
    write_network: Option<PathBuf>,
    /// List the networks, data sets, checkpoints, recipes and hardware files that the program knows
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    common: CommonArgs,
}

impl Arguments {
    /// The keys of the recipe that arguments set.
    ///
    /// # Errors
    /// One of them is set twice.
    fn recipe_settings(&self) -> Result<Vec<String>> {
        let strings = [
            ("dataset", &self.dataset),
            ("model", &self.model),
            ("pretrained", &self.pretrained),
            ("hardware", &self.hardware),
        ];
        let strings = strings.into_iter().filter_map(|(key, value)| Some((key, assignment(key, value.as_ref()?))));
        let fresh = Some(&self.fresh).filter(|fresh| !fresh.is_empty());
        let fresh = fresh.map(|fresh| ("fresh", format!("fresh={}", toml::Value::from(fresh.clone()))));
        let seed = self.seed.map(|seed| ("seed", format!("seed={seed}")));
        let mut settings = self.settings.clone();
        for (flag, setting) in strings.chain(fresh).chain(seed) {
            let sets_it = |setting: &&String| setting.split('=').next().is_some_and(|key| key.trim() == flag);
            if let Some(other) = self.settings.iter().find(sets_it) {
                return Err(Error::Arguments(format!("--{flag} and --set {other} set the same key: leave one out")));
            }
            settings.push(setting);
        }
        Ok(settings)
    }
}

fn main() -> ExitCode {
    keep_memory();
    let arguments = parse::<Arguments>("list");
    exit(isa_limit().and_then(|_| run(arguments)))
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    if arguments.list {
        say(&catalog())?;
        return Ok(ExitCode::SUCCESS);
    }
    let (data, observer) = (arguments.common.data(), arguments.common.observer());
    let environment = Environment { data: &data, device: &arguments.device, observer: &*observer };
    if let Some(file) = &arguments.write_network {
        return write_network(&arguments, file, environment);
    }
    let plan = plan(&arguments, environment)?;
    if arguments.evaluate {
        let evaluation = plan.evaluate()?;
        arguments.common.show(|| evaluation.to_json(), &format!("test accuracy {:.2} %\n", evaluation.accuracy))?;
    } else if arguments.dry_run {
        say(&plan.forecast()?.to_string())?;
    } else {
        return train(&arguments, plan);
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the network that the recipe names.
fn write_network(arguments: &Arguments, file: &Path, environment: Environment) -> Result<ExitCode> {
    let recipe = Recipe::load(arguments.recipe.as_deref(), &arguments.recipe_settings()?)?;
    check_new(file)?;
    describe(&recipe, environment)?.save(file)?;
    say(&format!("{0} is written; mars-train --model {0} trains it\n", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// What is to run: a new run, or the rest of one.
fn plan<'a>(arguments: &Arguments, environment: Environment<'a>) -> Result<Plan<'a>> {
    let settings = arguments.recipe_settings()?;
    if !arguments.resume {
        let recipe = Recipe::load(arguments.recipe.as_deref(), &settings)?;
        let recipe = if arguments.evaluate { recipe.in_float() } else { recipe };
        return Plan::new(recipe, arguments.folder.clone(), environment);
    }
    let Some(folder) = arguments.folder.clone() else {
        return Err(Error::Arguments("--resume needs --run DIR, the folder to go on with".into()));
    };
    if arguments.recipe.is_some() || !settings.is_empty() {
        let message = "--resume takes its recipe from the run folder: leave out --recipe, --set and the like";
        return Err(Error::Arguments(message.into()));
    }
    let cpu = if arguments.allow_other_cpu { Cpu::Any } else { Cpu::Same };
    Plan::resume(folder, cpu, environment)
}

/// Trains, and shows what came of it, or how to go on.
fn train(arguments: &Arguments, plan: Plan) -> Result<ExitCode> {
    match plan.run(&stop_on_interrupt()?)? {
        Outcome::Finished(folder, deployment) => {
            let place = format!("report: {}\n", folder.join(REPORT).display());
            arguments.common.show(|| deployment.to_json(), &(report::table(&*deployment) + &place))?;
            deployment.check_agreement(&folder.join(PACKAGE))?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Interrupted(folder) => {
            let DataOptions { data_dir, data_url, .. } = arguments.common.data();
            let device = Some(arguments.device.clone()).filter(|device| device != DEFAULT_DEVICE);
            let json = arguments.common.json_file().map(|file| file.display().to_string());
            let flags = [
                ("--run", Some(folder.display().to_string())),
                ("--json", json),
                ("--data-dir", data_dir.map(|place| place.display().to_string())),
                ("--data-url", data_url),
                ("--device", device),
            ];
            let flags: String = flags
                .into_iter()
                .filter_map(|(flag, value)| Some(format!(" {flag} {}", report::for_a_shell(&value?))))
                .collect();
            notice(&format!("interrupted; go on with: mars-train --resume{flags}"));
            Ok(ExitCode::from(130))
        }
    }
}

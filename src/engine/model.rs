//! Model files: a model on a GPU under an engine, as one TOML that names its
//! parts by relative path.
//!
//! What is generic stands apart from what is particular. `models/gpus/` knows
//! a GPU's data sheet, `models/shapes/` a network's dimensions,
//! `models/efficiencies/` how much of the peaks an engine reaches, and
//! `models/tables/` measured times. A file of `models/` itself puts them
//! together and adds `[engine]` defaults. It may leave `[hardware]` out if it
//! gives pool size and step time itself.

pub use crate::engine::hardware::{Dtype, Efficiency, Gpu, Hardware, Shape};
use crate::engine::settings::{EngineConfig, EngineSettings};
use crate::engine::table::{MeasuredTimes, TableError};
use crate::settings::Invalid;
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A loaded model file.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name, for reports.
    pub name: String,
    /// GPU, network and efficiencies; `None` if the file gives times itself.
    pub hardware: Option<Hardware>,
    /// Defaults of the `[engine]` section.
    pub engine: EngineSettings,
    /// SHA-256 over the file and all that it names, in order, hexadecimal.
    pub sha256: String,
}

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}{}", path.display(), named_by(by.as_deref()))]
    Read {
        /// The file.
        path: PathBuf,
        /// The model file that names it, if it is not the model file itself.
        by: Option<PathBuf>,
        /// Why.
        source: std::io::Error,
    },
    /// Not the TOML expected: syntax, an unknown key, a missing key, a wrong type.
    #[error("{}:{line}: {message}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line of the problem, from 1.
        line: usize,
        /// What is wrong, with the names that are allowed.
        message: String,
    },
    /// A value that cannot be used.
    #[error("{}: {invalid}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Key, value and values allowed.
        invalid: Invalid,
    },
    /// A table of measured times that cannot be used.
    #[error("{}:{}", path.display(), error)]
    Table {
        /// The file.
        path: PathBuf,
        /// Line and problem.
        error: TableError,
    },
}

fn named_by(by: Option<&Path>) -> String {
    by.map_or(String::new(), |by| format!(" (named by {})", by.display()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    name: String,
    hardware: Option<HardwareFile>,
    #[serde(default)]
    engine: EngineSettings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HardwareFile {
    gpu: PathBuf,
    shape: PathBuf,
    efficiency: PathBuf,
    table: Option<PathBuf>,
    tp: u32,
    weight_dtype: Dtype,
    kv_dtype: Dtype,
}

impl Model {
    /// Reads a model file and the files it names, relative to itself.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, or a value out of range; whether
    /// the `[engine]` section will do is known only once an experiment has had
    /// its say, in [`engine_config`](Self::engine_config).
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let mut files = Files { root: path, digest: Sha256::new() };
        let file: ModelFile = files.toml(path)?;
        let hardware = file.hardware.map(|hardware| hardware.load(&mut files)).transpose()?;
        let sha256 = files.digest.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Ok(Self { name: file.name, hardware, engine: file.engine, sha256 })
    }

    /// The configuration of a worker: this file's defaults under `overrides`.
    ///
    /// # Errors
    /// As [`EngineSettings::resolve`].
    pub fn engine_config(&self, overrides: &EngineSettings) -> Result<EngineConfig, Invalid> {
        overrides.clone().over(self.engine.clone()).resolve(self.hardware.as_ref())
    }
}

impl HardwareFile {
    fn load(self, files: &mut Files<'_>) -> Result<Hardware, ModelError> {
        let folder = files.root.parent().unwrap_or(Path::new(""));
        let at = |path: &Path| folder.join(path);
        let (gpu_path, shape_path) = (at(&self.gpu), at(&self.shape));
        let efficiency_path = at(&self.efficiency);
        let gpu: Gpu = files.toml(&gpu_path)?;
        gpu.validate().map_err(invalid_in(&gpu_path))?;
        let shape: Shape = files.toml(&shape_path)?;
        shape.validate().map_err(invalid_in(&shape_path))?;
        let efficiency: Efficiency = files.toml(&efficiency_path)?;
        efficiency.validate().map_err(invalid_in(&efficiency_path))?;
        let table = match &self.table {
            None => None,
            Some(path) => {
                let path = at(path);
                let text = files.text(&path)?;
                Some(
                    MeasuredTimes::parse(&text)
                        .map_err(|error| ModelError::Table { path, error })?,
                )
            }
        };
        let hardware = Hardware {
            gpu,
            shape,
            efficiency,
            table,
            tp: self.tp,
            weight_dtype: self.weight_dtype,
            kv_dtype: self.kv_dtype,
        };
        hardware.validate().map_err(invalid_in(files.root))?;
        Ok(hardware)
    }
}

fn invalid_in(path: &Path) -> impl FnOnce(Invalid) -> ModelError {
    let path = path.to_path_buf();
    move |invalid| ModelError::Invalid { path, invalid }
}

/// The model file and those it names, as they are read.
struct Files<'a> {
    root: &'a Path,
    digest: Sha256,
}

impl Files<'_> {
    fn text(&mut self, path: &Path) -> Result<String, ModelError> {
        let by = (path != self.root).then(|| self.root.to_path_buf());
        let text = std::fs::read_to_string(path).map_err(|source| ModelError::Read {
            path: path.to_path_buf(),
            by,
            source,
        })?;
        // The length keeps files apart.
        self.digest.update((text.len() as u64).to_le_bytes());
        self.digest.update(&text);
        Ok(text)
    }

    fn toml<T: DeserializeOwned>(&mut self, path: &Path) -> Result<T, ModelError> {
        let text = self.text(path)?;
        toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            ModelError::Toml {
                path: path.to_path_buf(),
                line: 1 + text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count(),
                message: error.message().to_owned(),
            }
        })
    }
}

//! Checkpoints of PyTorch 1.6 and later: a zip archive of one pickle, `data.pkl`, and a file of numbers for each storage.

use std::collections::BTreeMap;
use std::io::{self, Cursor};

use common::weights::is_tensor_name;
use common::{NamedTensors, Signature};
use zip::{CompressionMethod, ZipArchive};

use super::FileError;
use super::element::Element;
use super::pickle::{self, Id, PickleError, Pickled, Storage, Strided, Value};

/// Dicts within dicts, of which tensors are taken.
const MAX_DEPTH: usize = 16;
/// Entries of dicts that are looked at. A dict within many others is looked at in each of them.
const MAX_ENTRIES: usize = 1 << 20;
/// Bytes in a tensor's name.
const MAX_NAME: usize = 128;
/// Characters of a key that are looked at: enough to see that a name is too long.
const KEPT: usize = MAX_NAME + 1;
/// The part of a checkpoint that is no network: moments, under the numbers of the parameters.
const OPTIMIZER: &str = "optimizer";
/// What the functions are called that make tensors of any kind.
const REBUILD: &str = "_rebuild";

/// Why a checkpoint cannot be read.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum TorchError {
    /// A damaged archive.
    #[error("the checkpoint's zip archive is damaged: {0}; copy the file again")]
    Archive(String),
    /// An archive of another program.
    #[error(
        "the file is a zip archive of {files} files without data.pkl: torch.save did not write it; give a checkpoint of \
         torch.save, or safetensors"
    )]
    NoPickle {
        /// Files in the archive.
        files: usize,
    },
    /// A file that torch.save would not have written so.
    #[error("{file} of the checkpoint is compressed or encrypted: load it with torch.load and save it with torch.save")]
    Packed {
        /// The file in the archive.
        file: String,
    },
    /// Numbers of another machine.
    #[error(
        "the checkpoint's byte order is {found:?}, and only \"little\" is read: load it with torch.load on a machine of that \
         order and save its state with safetensors"
    )]
    ByteOrder {
        /// What the archive says.
        found: String,
    },
    /// A damaged pickle, or one of another program.
    #[error(
        "data.pkl of the checkpoint is refused: {0}; load it with torch.load and save its state_dict with torch.save"
    )]
    Pickle(#[from] PickleError),
    /// Nothing to take.
    #[error(
        "the checkpoint holds no named tensors of floats: {found}; save a network's state_dict() with torch.save, not the \
         network itself"
    )]
    NoState {
        /// What it holds instead.
        found: String,
    },
    /// Too deep or too many.
    #[error("the checkpoint's {what}: {found}, and at most {bound} are read; save the network's state_dict() alone")]
    Bound {
        /// What there is too much of.
        what: &'static str,
        /// How much there is, at least.
        found: usize,
        /// How much is read.
        bound: usize,
    },
    /// A tensor that is not a storage with sizes and strides.
    #[error(
        "tensor {name} is made by {function}: only dense tensors of plain floats are read; convert it with to_dense(), \
         dequantize() or float() and save it again"
    )]
    Kind {
        /// The tensor.
        name: String,
        /// What makes it.
        function: String,
    },
    /// A tensor with more values than its storage.
    #[error(
        "tensor {name} needs {needed} values of data/{key}, which holds {held}: the file is damaged; copy it again"
    )]
    Short {
        /// The tensor.
        name: String,
        /// Its storage.
        key: String,
        /// The values that it spans, as far as they can be counted.
        needed: usize,
        /// The values that are there.
        held: usize,
    },
    /// Tensors that repeat the same values over and over.
    #[error(
        "the checkpoint's tensors hold {values} values together, more than its {bytes} bytes can: some of them repeat the \
         same values; save them with clone()"
    )]
    Repeated {
        /// Values of all tensors.
        values: usize,
        /// Bytes of the file.
        bytes: usize,
    },
}

pub(super) fn read(file: &[u8]) -> Result<NamedTensors, FileError> {
    let mut archive = Archive::open(file)?;
    archive.require_little_endian()?;
    let pickled = pickle::read(archive.file("data.pkl")?).map_err(TorchError::from)?;
    weights(&pickled, file.len(), |key| archive.file(&format!("data/{key}")))
}

/// The tensors of a pickle whose storages are given by their keys.
fn weights<'a>(
    pickled: &Pickled,
    bytes: usize,
    mut storage: impl FnMut(&str) -> Result<&'a [u8], TorchError>,
) -> Result<NamedTensors, FileError> {
    let found = named(pickled)?;
    let shape = |tensor: &Strided| tensor.axes.iter().map(|&(size, _)| size).collect::<Vec<_>>();
    let values = Signature::new(found.iter().map(|(name, _, tensor)| (name.clone(), shape(tensor))))?.value_count();
    if values > bytes {
        return Err(TorchError::Repeated { values, bytes }.into());
    }
    let mut tensors = NamedTensors::new();
    for (name, element, tensor) in found {
        let stored = storage(&tensor.storage.key)?;
        let (needed, held) = (span(tensor), stored.len() / element.width());
        if needed > held {
            return Err(TorchError::Short { name, key: tensor.storage.key.to_string(), needed, held }.into());
        }
        tensors.insert(name, shape(tensor), element.floats(stored, tensor.start, &tensor.axes));
    }
    Ok(tensors)
}

/// Values from a storage's beginning to a tensor's last.
fn span(tensor: &Strided) -> usize {
    if tensor.axes.iter().any(|&(size, _)| size == 0) {
        return 0;
    }
    let last = |place: usize, &(size, stride): &(usize, usize)| place.saturating_add((size - 1).saturating_mul(stride));
    tensor.axes.iter().fold(tensor.start, last).saturating_add(1)
}

/// The tensors of floats, with their names.
fn named(pickled: &Pickled) -> Result<Vec<(String, Element, &Strided)>, TorchError> {
    let top = match pickled.top() {
        Value::Dict(entries) => entries,
        other => return Err(TorchError::NoState { found: format!("it is {}", words(other)) }),
    };
    let network = |(key, _): &&(Id, Id)| !matches!(pickled.value(*key), Value::Text(key) if **key == *OPTIMIZER);
    let mut walk = Walk { pickled, tensors: Vec::new(), entries: 0, first: None };
    walk.enter("", top.iter().filter(network), 1)?;
    if walk.tensors.is_empty() {
        let found = walk.first.unwrap_or_else(|| format!("its {} entries are plain values", walk.entries));
        return Err(TorchError::NoState { found });
    }
    Ok(walk.tensors)
}

struct Walk<'p> {
    pickled: &'p Pickled,
    tensors: Vec<(String, Element, &'p Strided)>,
    entries: usize,
    /// What is in the first entry that might have been expected to hold tensors of floats.
    first: Option<String>,
}

impl<'p> Walk<'p> {
    fn enter(
        &mut self,
        prefix: &str,
        entries: impl Iterator<Item = &'p (Id, Id)>,
        depth: usize,
    ) -> Result<(), TorchError> {
        if depth > MAX_DEPTH {
            return Err(TorchError::Bound { what: "dicts within dicts", found: depth, bound: MAX_DEPTH });
        }
        for (key, value) in entries {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(TorchError::Bound { what: "entries", found: self.entries, bound: MAX_ENTRIES });
            }
            let name = match self.pickled.value(*key) {
                Value::Text(key) => format!("{prefix}{key:.KEPT$}"),
                Value::Int(key) => format!("{prefix}{key}"),
                _ => continue,
            };
            match self.pickled.value(*value) {
                // What no network has: a training's own, beside it, under keys that say how that was set up.
                Value::Tensor(Strided { storage: Storage { element: Some(_), .. }, .. }) if !is_tensor_name(&name) => {
                    let told =
                        || format!("its entry {name:.MAX_NAME$} is a tensor that is not called as one of a network");
                    self.first.get_or_insert_with(told);
                }
                Value::Tensor(tensor @ Strided { storage: Storage { element: Some(element), .. }, .. }) => {
                    self.tensors.push((name, *element, tensor));
                }
                // No tensor below can have a name that is short enough.
                Value::Dict(_) if name.len() > MAX_NAME => {}
                Value::Dict(entries) => self.enter(&format!("{name}."), entries.iter(), depth + 1)?,
                Value::Object(function) if function.starts_with("torch.") && function.contains(REBUILD) => {
                    return Err(TorchError::Kind { name, function: function.to_string() });
                }
                Value::Plain | Value::Int(_) | Value::Text(_) | Value::Tuple(_) => {}
                other => {
                    self.first.get_or_insert_with(|| format!("its entry {name:.MAX_NAME$} is {}", words(other)));
                }
            }
        }
        Ok(())
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::Object(name) => format!("an object of {name}"),
        Value::Global(name) => format!("the class or function {name}"),
        Value::Tensor(tensor) if tensor.storage.element.is_none() => "a tensor of other numbers".to_owned(),
        Value::Tensor(_) => "a tensor without a name".to_owned(),
        Value::Storage(_) => "a storage".to_owned(),
        Value::Dict(_) => "a dict".to_owned(),
        Value::Plain | Value::Int(_) | Value::Text(_) | Value::Tuple(_) => "a plain value".to_owned(),
    }
}

/// An archive of torch.save. All files are stored as they are, so that they are slices of it.
struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder that all files are in, with its slash.
    folder: String,
    /// Files that were found whole.
    whole: BTreeMap<String, &'a [u8]>,
    /// Bytes in them.
    read: usize,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, TorchError> {
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(|error| TorchError::Archive(error.to_string()))?;
        let folder = zip.file_names_raw().find_map(|name| {
            let folder = std::str::from_utf8(name).ok()?.strip_suffix("data.pkl")?;
            (folder.is_empty() || folder.find('/') == Some(folder.len() - 1)).then(|| folder.to_owned())
        });
        let folder = folder.ok_or(TorchError::NoPickle { files: zip.len() })?;
        Ok(Self { bytes, zip, folder, whole: BTreeMap::new(), read: 0 })
    }

    /// Archives before PyTorch 2.1 do not name their order, which is little-endian wherever PyTorch is built for.
    fn require_little_endian(&mut self) -> Result<(), TorchError> {
        if self.zip.index_for_name_raw(format!("{}byteorder", self.folder).as_bytes()).is_none() {
            return Ok(());
        }
        match self.file("byteorder")? {
            b"little" => Ok(()),
            other => Err(TorchError::ByteOrder { found: String::from_utf8_lossy(other).chars().take(16).collect() }),
        }
    }

    fn file(&mut self, name: &str) -> Result<&'a [u8], TorchError> {
        if let Some(&bytes) = self.whole.get(name) {
            return Ok(bytes);
        }
        let damaged = |what: &dyn std::fmt::Display| TorchError::Archive(format!("{name:.MAX_NAME$}: {what}"));
        let path = format!("{}{name}", self.folder);
        let index = self.zip.index_for_name_raw(path.as_bytes()).ok_or_else(|| damaged(&"no such file in it"))?;
        let mut entry = self.zip.by_index(index).map_err(|error| damaged(&error))?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(TorchError::Packed { file: path });
        }
        let (start, length) = (entry.data_start(), entry.compressed_size());
        // Read to its end for the checksum alone.
        io::copy(&mut entry, &mut io::sink()).map_err(|error| damaged(&error))?;
        let slice = |start: u64| self.bytes.get(start.try_into().ok()?..start.checked_add(length)?.try_into().ok()?);
        let bytes = start.and_then(slice).ok_or_else(|| damaged(&"it reaches beyond the archive"))?;
        // Files that overlap would make a short archive long.
        self.read += bytes.len();
        if self.read > self.bytes.len() {
            return Err(damaged(&"files of the archive overlap"));
        }
        self.whole.insert(name.to_owned(), bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use common::weights::WeightsError;
    use proptest::prelude::*;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// What torch.save makes of a checkpoint of DINO's code, and of every float and layout;
    /// `scripts/interchange.py fixture` writes them.
    const DINO: &[u8] = include_bytes!("../../tests/fixtures/dino_tiny.pth");
    const LAYOUTS: &[u8] = include_bytes!("../../tests/fixtures/layouts.pth");

    fn archive(files: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in files {
            writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// An archive of a pickle and of one storage of four values.
    fn checkpoint(pickle: &[u8]) -> Vec<u8> {
        let storage: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        archive(&[("a/data.pkl", pickle), ("a/data/0", &storage)], CompressionMethod::Stored)
    }

    /// The program of a tensor of that storage, from arguments in the words of a pickle.
    fn tensor(arguments: &[u8]) -> Vec<u8> {
        tensor_of(b"FloatStorage", arguments)
    }

    fn tensor_of(class: &[u8], arguments: &[u8]) -> Vec<u8> {
        let function = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n";
        [function, class, b"\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ", arguments, b"\x89)tR"].concat()
    }

    /// The program of a dict of one entry, `a`.
    fn state(value: &[u8]) -> Vec<u8> {
        [b"\x80\x02}X\x01\0\0\0a", value, b"s."].concat()
    }

    fn refusal(file: &[u8]) -> String {
        read(file).unwrap_err().to_string()
    }

    #[test]
    fn every_float_and_layout_that_torch_saves_is_read_as_it_would_be_there() {
        let tensors = read(LAYOUTS).unwrap();
        let count = |from: u8, to: u8| (from..to).map(f32::from).collect::<Vec<_>>();
        let quarters: Vec<f32> = count(0, 12).iter().map(|value| value / 4.0).collect();
        let transposed = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11_u8].map(f32::from).to_vec();
        let expected = [
            ("brain", vec![3, 4], quarters.clone()),
            ("column", vec![3], vec![2.0, 6.0, 10.0]),
            ("deep.er.0", vec![1], vec![0.0]),
            ("double", vec![3, 4], quarters.clone()),
            ("empty", vec![0, 3], vec![]),
            ("half", vec![3, 4], quarters),
            ("parameter", vec![4], count(8, 12)),
            ("rows", vec![2, 4], count(4, 12)),
            ("scalar", vec![], vec![7.0]),
            ("single", vec![3, 4], count(0, 12)),
            ("transposed", vec![4, 3], transposed),
        ];
        let found = tensors.iter().map(|(name, tensor)| (name, tensor.shape.clone(), tensor.values.clone()));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_checkpoint_of_dino_has_the_names_of_its_parts_and_no_optimizer() {
        let tensors = read(DINO).unwrap();
        let under = |prefix: &str| tensors.under(prefix).iter().count();
        assert_eq!((under("student.module."), under("teacher."), under("dino_loss.")), (38, 38, 1));
        assert_eq!(tensors.iter().count(), 77);
        assert!(tensors.get("teacher.head.last_layer.weight_v").is_some());
    }

    #[test]
    fn a_tensor_beyond_its_storage_is_named_with_both_sizes() {
        let whole = read(&checkpoint(&state(&tensor(b"K\x00K\x02K\x02\x86K\x02K\x01\x86")))).unwrap();
        assert_eq!(whole.get("a").unwrap().shape, [2, 2]);
        for (arguments, needed) in [
            (&b"K\x01K\x02K\x02\x86K\x02K\x01\x86"[..], "needs 5 values"),
            (b"K\x00K\x02K\x02\x86K\x03K\x01\x86", "needs 5 values"),
            (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f)\x29", "needs 9223372036854775808 values"),
            (b"K\x00K\x02\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", "needs 9223372036854775808 values"),
        ] {
            let words = refusal(&checkpoint(&state(&tensor(arguments))));
            assert!(words.contains("tensor a ") && words.contains(needed) && words.contains("holds 4"), "{words}");
        }
        let words = refusal(&checkpoint(&state(&tensor(b"K\x00J\xff\xff\xff\xff\x85K\x01\x85"))));
        assert!(words.contains("what a tensor is made of"), "{words}");
    }

    #[test]
    fn tensors_that_would_fill_the_memory_from_a_small_file_are_refused() {
        let words = refusal(&checkpoint(&state(&tensor(b"K\x00J\x00\x00\x00\x01\x85K\x00\x85"))));
        assert!(words.contains("hold 16777216 values together"), "{words}");
        let huge = checkpoint(&state(&tensor(b"K\x00J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86K\x00K\x00\x86")));
        assert!(matches!(read(&huge), Err(FileError::Weights(WeightsError::Size { .. }))));
        // A dict that holds another one twice, which holds another one twice, and so on.
        let doubled = (0..14_u8).fold(b"\x80\x02}q\x00".to_vec(), |program, level| {
            [&program[..], &[b'}', b'q', level + 1], b"(K\x00h", &[level], b"K\x01h", &[level], b"u"].concat()
        });
        let words = refusal(&checkpoint(&[&doubled[..], b"."].concat()));
        assert!(words.contains("plain values"), "{words}");
        let doubled = [&doubled[..], b"}(", &b"K\x00h\x0e".repeat(100), b"u."].concat();
        assert!(refusal(&checkpoint(&doubled)).contains("entries: 1048577, and at most 1048576"));
        let words = refusal(&checkpoint(b"\x80\x02}q\x00X\x01\0\0\0ah\x00s."));
        assert!(words.contains("dicts within dicts: 17, and at most 16"), "{words}");
    }

    #[test]
    fn a_pickle_without_named_tensors_is_refused_with_what_it_holds() {
        for (program, told) in [
            (
                &b"\x80\x02ctimm.models\nVisionTransformer\n)\x81."[..],
                "it is an object of timm.models.VisionTransformer",
            ),
            (b"\x80\x02N.", "it is a plain value"),
            (b"\x80\x02}.", "its 0 entries are plain values"),
        ] {
            let words = refusal(&checkpoint(program));
            assert!(words.contains(told) && words.contains("save a network's state_dict()"), "{words}");
        }
        let tensor = tensor(b"K\x00K\x02\x85K\x01\x85");
        assert!(
            refusal(&checkpoint(&[b"\x80\x02", &tensor[..], b"."].concat())).contains("it is a tensor without a name")
        );
        let words = refusal(&checkpoint(&state(&tensor_of(b"LongStorage", b"K\x00K\x02\x85K\x01\x85"))));
        assert!(words.contains("its entry a is a tensor of other numbers"), "{words}");
        let array = state(b"cnumpy._core.multiarray\n_reconstruct\n)R");
        assert!(
            refusal(&checkpoint(&array)).contains("its entry a is an object of numpy._core.multiarray._reconstruct")
        );
        let words = refusal(&checkpoint(&state(b"ctorch._utils\n_rebuild_sparse_tensor\n)R")));
        assert!(words.contains("tensor a is made by torch._utils._rebuild_sparse_tensor"), "{words}");
    }

    #[test]
    fn a_tensor_that_no_network_has_is_left_out_and_stands_in_nobodys_way() {
        let one = tensor(b"K\x00K\x02\x85K\x01\x85");
        let strange = [b"X\x04\0\0\0a{b}", &one[..], b"s"].concat();
        let both = [b"\x80\x02}", &strange[..], b"X\x01\0\0\0a", &one, b"s."].concat();
        let tensors = read(&checkpoint(&both)).unwrap();
        assert_eq!(tensors.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a"]);
        let words = refusal(&checkpoint(&[b"\x80\x02}", &strange[..], b"."].concat()));
        assert!(words.contains("its entry a{b} is a tensor that is not called as one of a network"), "{words}");
    }

    #[test]
    fn an_archive_that_torch_save_did_not_write_is_refused_by_what_is_wrong_with_it() {
        let plain = state(&tensor(b"K\x00K\x02\x85K\x01\x85"));
        let stored = |files: &[(&str, &[u8])]| archive(files, CompressionMethod::Stored);
        assert!(refusal(&stored(&[("weights.npy", b"")])).contains("1 files without data.pkl"));
        let big = stored(&[("a/data.pkl", &plain), ("a/byteorder", b"big"), ("a/data/0", &[0; 16])]);
        assert!(refusal(&big).contains("byte order is \"big\""));
        assert!(refusal(&stored(&[("a/data.pkl", &plain)])).contains("data/0: no such file in it"));
        let packed = archive(&[("a/data.pkl", &plain), ("a/data/0", &[0; 16])], CompressionMethod::Deflated);
        assert!(refusal(&packed).contains("a/data.pkl of the checkpoint is compressed"));
        let mut flipped = checkpoint(&plain);
        let place = flipped.windows(4).position(|word| word == 2.0_f32.to_le_bytes()).unwrap();
        flipped[place] ^= 1;
        assert!(refusal(&flipped).contains("data/0: Invalid checksum"), "{}", refusal(&flipped));
    }

    proptest! {
        #[test]
        fn a_checkpoint_cut_anywhere_is_refused(file in proptest::sample::select(vec![DINO, LAYOUTS]), at in any::<proptest::sample::Index>()) {
            prop_assert!(read(&file[..at.index(file.len())]).is_err());
        }

        #[test]
        fn a_checkpoint_with_changed_bytes_is_read_or_refused_and_the_program_goes_on(
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut file = LAYOUTS.to_vec();
            changes.iter().for_each(|(place, byte)| file[place.index(LAYOUTS.len())] = *byte);
            let _ = read(&file);
        }

        #[test]
        fn a_pickle_with_changed_bytes_is_read_or_refused_and_the_program_goes_on(
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut whole = Archive::open(LAYOUTS).unwrap();
            let mut pickle = whole.file("data.pkl").unwrap().to_vec();
            changes.iter().for_each(|(place, byte)| {
                let place = place.index(pickle.len());
                pickle[place] = *byte;
            });
            if let Ok(pickled) = pickle::read(&pickle) {
                let _ = weights(&pickled, LAYOUTS.len(), |key| whole.file(&format!("data/{key}")));
            }
        }

        #[test]
        fn a_program_of_any_instructions_ends(
            program in proptest::collection::vec(
                prop_oneof![
                    proptest::sample::select(b"(.01N]GJKMXc})tae\x85\x86\x87suqrhjQRb\x81\x8a\x8b".to_vec()),
                    0..4_u8,
                ],
                0..200,
            ),
        ) {
            if let Ok(pickled) = pickle::read(&program) {
                let _ = weights(&pickled, 1 << 10, |_| Ok(&[0; 64]));
            }
        }
    }
}

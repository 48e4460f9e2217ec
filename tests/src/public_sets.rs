//! Public data sets in miniature: the folders of ACDC, M&Ms, M&Ms-2 and EMIDEC as they are downloaded, with hearts of ellipses.

use std::fs;
use std::path::{Path, PathBuf};

use data::{Affine, NiftiError, Placement, Volume, slice_affine, write_nifti};

/// Columns, rows and slices of a short axis.
pub const SAX: [usize; 3] = [32, 36, 4];
/// Columns, rows and slices of a four-chamber view.
pub const LAX: [usize; 3] = [30, 28, 1];
/// Distance of pixels, in mm.
pub const PIXEL_MM: f64 = 2.0;
/// Distance of slices, in mm.
pub const STEP_MM: f64 = 10.0;
/// Moments of a cine.
pub const MOMENTS: usize = 5;
/// The moments of end-diastole and end-systole, from 0.
pub const ED_ES: [usize; 2] = [0, 2];

/// Codes of LV, myocardium and RV.
pub type Codes = [u8; 3];

/// ACDC's codes.
pub const ACDC: Codes = [3, 2, 1];
/// Those of M&Ms and M&Ms-2.
pub const MNMS: Codes = [1, 2, 3];

/// What of a heart a voxel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tissue {
    /// Neither of the others.
    Body,
    /// The left ventricle's cavity.
    Lv,
    /// The left ventricle's wall.
    Myocardium,
    /// The right ventricle's cavity.
    Rv,
    /// An infarct in the wall.
    Scar,
    /// Its core, where no contrast came.
    NoReflow,
}

/// The heart of a subject, told from the others' by its number.
#[derive(Clone, Copy, Debug)]
pub struct Heart {
    /// Draws sizes.
    pub number: usize,
    /// A sector of the wall is infarcted.
    pub infarct: bool,
}

impl Heart {
    /// The tissue at a voxel of a short axis: a disc in a ring, a crescent to its left; smaller in systole and toward the apex.
    pub fn sax(&self, [column, row, slice]: [usize; 3], moment: usize) -> Tissue {
        let (x, y) = (column as f64 - 18.0, row as f64 - 17.0);
        let beat = if moment == ED_ES[1] { 0.7 } else { 1.0 };
        let cavity = beat * (6.0 + self.number as f64 % 3.0 * 0.4 - 0.5 * slice as f64);
        let r = x.hypot(y * 1.1);
        let sector = self.infarct && x > 0.0 && y > 0.0;
        match r {
            r if r < cavity => Tissue::Lv,
            r if r < cavity + 1.0 && sector => Tissue::NoReflow,
            r if r < cavity + 3.0 && sector => Tissue::Scar,
            r if r < cavity + 3.0 => Tissue::Myocardium,
            _ if (x + 7.0).hypot(y) < beat * 10.0 && x < 0.0 => Tissue::Rv,
            _ => Tissue::Body,
        }
    }

    /// The tissue at a voxel of a four-chamber view: a cavity in its wall, open above, beside another.
    pub fn lax(&self, [column, row, _]: [usize; 3], moment: usize) -> Tissue {
        let (x, y) = (column as f64 - 17.0, row as f64 - 12.0);
        let beat = if moment == ED_ES[1] { 0.8 } else { 1.0 };
        match (x / (4.0 * beat)).hypot(y / 9.0) {
            r if r < 1.0 && y > -5.0 => Tissue::Lv,
            r if r < 1.6 && y > -5.0 => Tissue::Myocardium,
            _ if (x + 9.0).hypot(y * 0.6) < 5.0 * beat => Tissue::Rv,
            _ => Tissue::Body,
        }
    }

    /// What it looks like: blood is bright in a cine, and so is an infarct where contrast stays.
    fn shade(&self, tissue: Tissue, [column, row, slice]: [usize; 3], moment: usize) -> i16 {
        let texture = ((column * 7 + row * 13 + slice * 29 + moment * 3 + self.number * 31) % 17) as i16;
        texture
            + match tissue {
                Tissue::Body => 60 + row as i16,
                Tissue::Lv | Tissue::Rv => 400,
                Tissue::Myocardium | Tissue::NoReflow => 150,
                Tissue::Scar => 520,
            }
    }
}

/// What a view shows where: [`Heart::sax`] or [`Heart::lax`].
pub type Drawn = fn(&Heart, [usize; 3], usize) -> Tissue;

/// The images and the masks of some moments of a view.
pub struct View {
    /// Whose.
    pub heart: Heart,
    /// What is where.
    pub drawn: Drawn,
    /// Columns, rows, slices.
    pub dims: [usize; 3],
    /// Where voxels lie.
    pub affine: Affine,
}

impl View {
    fn volume<T>(&self, moments: &[usize], value: impl Fn(Tissue, [usize; 3], usize) -> T) -> Volume<T> {
        let [i, j, k] = self.dims;
        let mut values = Vec::with_capacity(i * j * k * moments.len());
        for &moment in moments {
            for slice in 0..k {
                for row in 0..j {
                    for column in 0..i {
                        let at = [column, row, slice];
                        values.push(value((self.drawn)(&self.heart, at, moment), at, moment));
                    }
                }
            }
        }
        Volume { dims: [i, j, k, moments.len()], affine: self.affine, values }
    }

    /// Images of these moments.
    pub fn images(&self, moments: &[usize]) -> Volume<i16> {
        self.volume(moments, |tissue, at, moment| self.heart.shade(tissue, at, moment))
    }

    /// Masks of these moments, empty but for those that were drawn.
    pub fn masks(&self, moments: &[usize], drawn: &[usize], code: impl Fn(Tissue) -> u8) -> Volume<u8> {
        self.volume(moments, |tissue, _, moment| if drawn.contains(&moment) { code(tissue) } else { 0 })
    }
}

/// A heart's codes.
pub fn coded([lv, myocardium, rv]: Codes) -> impl Fn(Tissue) -> u8 {
    move |tissue| match tissue {
        Tissue::Body => 0,
        Tissue::Lv => lv,
        Tissue::Rv => rv,
        Tissue::Myocardium | Tissue::Scar | Tissue::NoReflow => myocardium,
    }
}

/// EMIDEC's codes: nobody drew the right ventricle.
pub fn emidec(tissue: Tissue) -> u8 {
    match tissue {
        Tissue::Body | Tissue::Rv => 0,
        Tissue::Lv => 1,
        Tissue::Myocardium => 2,
        Tissue::Scar => 3,
        Tissue::NoReflow => 4,
    }
}

/// A grid along the body's axes, as ACDC's are.
pub fn upright(step_mm: f64) -> Affine {
    [[-PIXEL_MM, 0.0, 0.0, 0.0], [0.0, -PIXEL_MM, 0.0, 0.0], [0.0, 0.0, step_mm, 0.0], [0.0, 0.0, 0.0, 1.0]]
}

/// A short axis as a scanner lies it through a heart, planes counted from base to apex.
pub fn oblique() -> Affine {
    let row = [0.72, 0.64, 0.27];
    let column = [-0.15081, 0.52345, -0.83860];
    let [a, b, c] = row;
    let [d, e, f] = column;
    let placed = Placement::new([-80.0, -60.0, 120.0], [a, b, c, d, e, f]);
    slice_affine(&placed.expect("two perpendicular directions"), [PIXEL_MM; 2], -STEP_MM)
}

/// The same place with rows counted from below, as converters to NIfTI often do. Not the same image: its rows have to be
/// turned as well.
pub fn from_below(affine: &Affine, rows: usize) -> Affine {
    affine.map(|[i, j, k, origin]| [i, -j, k, origin + (rows as f64 - 1.0) * j])
}

fn write<T: data::Voxel>(path: &Path, volume: &Volume<T>) -> Result<(), NiftiError> {
    let disk = |source| NiftiError::Disk { file: path.to_owned(), source };
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(disk)?;
    write_nifti(path, volume)
}

fn text(path: &Path, words: &str) -> Result<(), NiftiError> {
    let disk = |source| NiftiError::Disk { file: path.to_owned(), source };
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(disk)?;
    fs::write(path, words).map_err(disk)
}

/// ACDC with this many cases, the last of them in `testing/`, coded like this.
pub fn write_acdc(root: &Path, cases: usize, codes: Codes) -> Result<(), NiftiError> {
    let all: Vec<usize> = (0..MOMENTS).collect();
    text(&root.join("MANDATORY_CITATION.md"), "O. Bernard et al. 2018\n")?;
    for number in 1..=cases {
        let patient = format!("patient{number:03}");
        let split = if number == cases { "testing" } else { "training" };
        let folder = root.join(split).join(&patient);
        let view = sax(number, false, upright(STEP_MM));
        let group = ["NOR", "MINF", "DCM", "HCM", "RV"][number % 5];
        let [ed, es] = ED_ES.map(|moment| moment + 1);
        let info = format!("ED: {ed}\nES: {es}\nGroup: {group}\nHeight: 184.0\nNbFrame: {MOMENTS}\nWeight: 95.0\n");
        text(&folder.join("Info.cfg"), &info)?;
        write(&folder.join(format!("{patient}_4d.nii.gz")), &view.images(&all))?;
        for moment in ED_ES {
            let frame = format!("{patient}_frame{:02}", moment + 1);
            write(&folder.join(format!("{frame}.nii.gz")), &view.images(&[moment]))?;
            write(&folder.join(format!("{frame}_gt.nii.gz")), &view.masks(&[moment], &[moment], coded(codes)))?;
        }
    }
    Ok(())
}

/// A subject's short axis.
pub fn sax(number: usize, infarct: bool, affine: Affine) -> View {
    View { heart: Heart { number, infarct }, drawn: Heart::sax, dims: SAX, affine }
}

/// The names of the subjects of M&Ms in miniature, and where each lies.
pub const MNMS_CASES: [(&str, &str); 4] =
    [("A0S9V9", "Training/Labeled"), ("B3D0N1", "Training/Unlabeled"), ("C4K8P2", "Validation"), ("D1L6T8", "Testing")];

/// M&Ms: four cases of four vendors, and a row of a fifth that is not here.
pub fn write_mnms(root: &Path, codes: Codes) -> Result<(), NiftiError> {
    let all: Vec<usize> = (0..MOMENTS).collect();
    let mut table = ",External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight\n".to_owned();
    let rows = [("Siemens", "A", "HCM"), ("Philips", "B", "NOR"), ("GE", "C", "LVNC"), ("Canon", "D", "ARV")];
    for (number, ((code, split), (vendor, letter, disease))) in MNMS_CASES.into_iter().zip(rows).enumerate() {
        let [ed, es] = ED_ES;
        table += &format!("{number},{code},{vendor},{letter},1,{ed},{es},57,{disease},F,160.0,\n");
        let folder = root.join(split).join(code);
        let view = sax(number, false, oblique());
        let drawn: &[usize] = if split.ends_with("Unlabeled") { &[] } else { &ED_ES };
        write(&folder.join(format!("{code}_sa.nii.gz")), &view.images(&all))?;
        write(&folder.join(format!("{code}_sa_gt.nii.gz")), &view.masks(&all, drawn, coded(codes)))?;
    }
    table += "4,Z9Z9Z9,Canon,D,5,0,9,33,NOR,M,,\n";
    text(&root.join("211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"), &table)
}

/// M&Ms-2 with these diseases, one a case.
pub fn write_mnms2(root: &Path, diseases: &[&str]) -> Result<(), NiftiError> {
    let mut table = "SUBJECT_CODE,DISEASE,VENDOR,SCANNER,FIELD\n".to_owned();
    for (number, disease) in (1..).zip(diseases) {
        let code = format!("{number:03}");
        table += &format!("{number},{disease},Philips Medical Systems,Achieva,1.5\n");
        let folder = root.join("dataset").join(&code);
        let long =
            View { heart: Heart { number, infarct: false }, drawn: Heart::lax, dims: LAX, affine: upright(STEP_MM) };
        for (name, view) in [("SA", sax(number, false, oblique())), ("LA", long)] {
            for (word, moment) in ["ED", "ES"].into_iter().zip(ED_ES) {
                let stem = format!("{code}_{name}_{word}");
                write(&folder.join(format!("{stem}.nii.gz")), &view.images(&[moment]))?;
                write(&folder.join(format!("{stem}_gt.nii.gz")), &view.masks(&[moment], &[moment], coded(MNMS)))?;
            }
            write(&folder.join(format!("{code}_{name}_CINE.nii.gz")), &view.images(&[0, 1, 2, 3, 4]))?;
        }
    }
    text(&root.join("dataset_information.csv"), &(table + ",,,,\n"))
}

/// EMIDEC with these cases.
pub fn write_emidec(root: &Path, cases: &[&str]) -> Result<(), NiftiError> {
    text(&root.join("Readme.txt"), "EMIDEC\n")?;
    for (number, id) in cases.iter().enumerate() {
        let view = sax(number, id.starts_with('P'), from_below(&oblique(), SAX[1]));
        let file = |below: &str| -> PathBuf { root.join(format!("Case_{id}/{below}/Case_{id}.nii.gz")) };
        write(&file("Images"), &view.images(&[0]))?;
        write(&file("Contours"), &view.masks(&[0], &[0], emidec))?;
        text(&root.join(format!("Case {id}.txt")), &format!("Case {id}\n\nSex : F\nAge : 70\n"))?;
    }
    Ok(())
}

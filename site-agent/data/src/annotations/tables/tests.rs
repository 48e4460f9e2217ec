use std::fs;

use super::*;

fn secret() -> SiteSecret {
    SiteSecret::new([7; 32])
}

fn written(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.csv");
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn class_error(text: &[u8]) -> String {
    let (_folder, path) = written(text);
    classes(&path, &secret()).err().unwrap().to_string()
}

#[test]
fn a_table_is_read_in_any_order_of_columns_with_quotes_blank_lines_and_either_end_of_line() {
    let text = "\u{feff}file, phase ,series,subject\r\n\"a,b.nii\",3,1.2.3,PAT-1\r\n\r\nc/d.nii,, 1.2.4 ,\"PAT-2\"\r\n";
    let (_folder, path) = written(text.as_bytes());
    let rows = masks(&path, &secret()).unwrap().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].file.as_path(), rows[0].phase, rows[0].at.line), (Path::new("a,b.nii"), Some(3), 2));
    assert_eq!((rows[1].file.as_path(), rows[1].phase, rows[1].at.line), (Path::new("c/d.nii"), None, 4));
    assert_eq!(rows[1].series, SeriesKey::of(&secret(), "1.2.4"));
    assert_eq!(rows[1].subject, SubjectKey::of(&secret(), "PAT-2"));
}

#[test]
fn a_row_that_cannot_be_read_is_told_by_its_line_and_never_by_what_stands_in_it() {
    let cases: [(&[u8], &str, &str); 12] = [
        (b"subject,disease\nPAT-1,NOR\nPAT-2,NOR,extra\n", "line 3", "3 cells where the first line has 2"),
        (b"subject,disease\nPAT-1\n", "line 2", "1 cells where the first line has 2"),
        (b"subject,disease\nPAT-1,\"NOR\nPAT-2,NOR\n", "line 2", "a quote is not closed"),
        (b"subject,disease\nPAT-1,N\"O\"R\n", "line 2", "a quote or a control character"),
        (b"subject,disease\nPAT-1,N\x07R\n", "line 2", "a quote or a control character"),
        (b"subject,disease\nPAT-1,NOR\nPAT-1 ,HCM\n", "line 3", "a label already, in line 2"),
        (b"subject,disease\n ,NOR\n", "line 2", "cell 1 is empty"),
        (b"subject,disease\nPAT-1,NOR\nPAT-\xff,NOR\n", "line 3", "not UTF-8"),
        (b"subject;disease\nPAT-1;NOR\n", "line 1", "no column is named \"subject\""),
        (b"subject,disease,disease\nPAT-1,NOR,NOR\n", "line 1", "name each once"),
        (b"PAT-1,NOR\nPAT-2,NOR\n", "line 1", "no column is named"),
        (b"", "line 1", "no column is named \"subject\""),
    ];
    for (text, line, says) in cases {
        let error = class_error(text);
        assert!(error.contains(line) && error.contains(says), "{}: {error}", String::from_utf8_lossy(text));
        assert!(!error.contains("PAT-"), "{error}");
    }
}

#[test]
fn landmarks_need_every_column_and_plain_numbers() {
    let told = |rows: &str| {
        let (_folder, path) = written(format!("subject,series,phase,landmark,x_mm,y_mm,z_mm\n{rows}\n").as_bytes());
        landmarks(&path, &secret()).map(|rows| rows.unwrap().len())
    };
    assert_eq!(told("P,1.2,0,apex,1.5,-2,3e1").unwrap(), 1);
    for bad in [
        "P,1.2,0,apex,NaN,0,0",
        "P,1.2,0,apex,0,inf,0",
        "P,1.2,0,apex,0,0,\"1,5\"",
        "P,1.2,0,apex,0,0,",
        "P,1.2,0,apex,0,0,1e9",
    ] {
        let error = told(bad).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("no number of millimetres"), "{error}");
    }
    assert!(told("P,1.2,0,,0,0,0").unwrap_err().to_string().contains("the landmark's name"));
    let (_folder, path) = written(b"subject,series,phase,landmark,x_mm,y_mm\n");
    assert!(landmarks(&path, &secret()).unwrap_err().to_string().contains("no column is named \"z_mm\""));
    let (_folder, path) = written(b"subject,series,phase,file,who\n");
    assert!(masks(&path, &secret()).unwrap_err().to_string().contains("\"who\" is none of"));
}

#[test]
fn a_table_that_is_not_there_is_none_and_one_without_end_is_refused() {
    let (folder, path) = written(b"");
    assert!(masks(&folder.path().join("other.csv"), &secret()).unwrap().is_none());
    fs::File::options().write(true).open(&path).unwrap().set_len(LIMIT + 1).unwrap();
    assert!(matches!(masks(&path, &secret()), Err(LabelError::TooLarge { .. })));
    assert!(matches!(masks(folder.path(), &secret()), Err(LabelError::Disk { .. })), "a folder is no table");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let (_folder, path) = written(&[b"subject,disease\n".as_slice(), &text].concat());
        let _ = classes(&path, &secret());
    }
}

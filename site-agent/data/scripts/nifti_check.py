#!/usr/bin/env python3
"""Hold NIfTI reading and writing to nibabel and pydicom, which share no code with the programs here.

    python3 -m venv venv && venv/bin/pip install nibabel pydicom
    venv/bin/python site-agent/data/scripts/nifti_check.py            # the numbers in src/nifti/tests.rs
    cargo phantom --out images
    venv/bin/python site-agent/data/scripts/nifti_check.py images     # every mask against its DICOM series
    venv/bin/python site-agent/data/scripts/nifti_check.py images/site-b said    # what `predict --out said` wrote there

Without a folder: small files made by nibabel, as hexadecimal digits, and what nibabel makes of a DICOM geometry. With one: every mask
that labels/masks.csv names is opened; its qform and its sform must each put the voxels of every slice's corners where
ImagePositionPatient, ImageOrientationPatient and PixelSpacing put the pixels, to 1e-4 mm, and say millimetres. With two: the same of
the masks in the second, which `site-agent predict` wrote of the first one's images. Prints the largest difference; exits with 1 if
one is larger.
"""

import csv
import gzip
import io
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import nibabel
import numpy as np
import pydicom

BOUND_MM = 1e-4


def made(dtype, endianness="<", qform=True, sform=True, slope=None, units=2):
    """The bytes of a 3 x 2 x 2 volume on an oblique grid, and its affine."""
    affine = np.array([[-1.2, 0.3, 0.5, 10.0], [0.4, 1.1, 2.0, -20.0], [0.1, -0.6, 7.5, 30.5], [0, 0, 0, 1]])
    # Perpendicular axes, so that a qform can say them.
    rotation, upper = np.linalg.qr(affine[:3, :3])
    rotation *= np.sign(np.diag(upper))
    affine[:3, :3] = rotation * [1.5, 0.75, 8.0]
    header = nibabel.Nifti1Header(endianness=endianness)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(endianness))
    values = np.arange(12).reshape(3, 2, 2, order="F").astype(dtype)
    image = nibabel.Nifti1Image(values, affine, header)
    image.header.set_xyzt_units(units)
    image.set_qform(affine if qform else None, code=1 if qform else 0)
    image.set_sform(affine if sform else None, code=1 if sform else 0)
    if slope:
        image.header.set_slope_inter(*slope)
    stream = io.BytesIO()
    image.header["magic"] = b"n+1"
    image.header["vox_offset"] = 352
    image.header.write_to(stream)
    stream.write(values.astype(np.dtype(dtype).newbyteorder(endianness)).tobytes(order="F"))
    raw = stream.getvalue()
    again = nibabel.Nifti1Image.from_bytes(raw)
    assert np.allclose(again.affine, affine, atol=1e-5)
    scale, offset = slope or (1, 0)
    assert np.array_equal(again.get_fdata().ravel(order="F"), np.arange(12) * scale + offset)
    return raw, affine


def numbers():
    for name, options in {
        "U8": dict(dtype="u1"),
        "I16_BIG_QFORM": dict(dtype="i2", endianness=">", sform=False),
        "F32_SCALED": dict(dtype="f4", slope=(2.0, -3.0), qform=False),
    }.items():
        raw, affine = made(**options)
        print(f"{name}: {gzip.compress(raw, mtime=0).hex()}")
    print("affine of all:", np.round(affine, 6).tolist())
    # A DICOM geometry as a volume: what nibabel makes of it.
    position, rows, columns = [-101.5, 42.25, 310.0], [0.6, 0.8, 0.0], [-0.48, 0.36, 0.8]
    spacing, step = [1.4, 0.9], -9.5
    normal = np.cross(rows, columns)
    lps = np.column_stack([np.array(rows) * spacing[1], np.array(columns) * spacing[0], normal * step, position])
    affine = np.vstack([np.diag([-1, -1, 1]) @ lps, [0, 0, 0, 1]])
    header = nibabel.Nifti1Header()
    header.set_data_shape((5, 4, 3))
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    for field in ["pixdim", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"]:
        print(field, np.asarray(header[field]).tolist())


def datasets(folder):
    """Every DICOM header below a folder, in zips as well."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".dcm"):
                        yield pydicom.dcmread(io.BytesIO(archive.read(name)), stop_before_pixels=True)
        elif path.is_file():
            yield pydicom.dcmread(path, stop_before_pixels=True)


def geometry(dataset):
    """Position, orientation and spacing of an image's first frame."""
    if "SharedFunctionalGroupsSequence" in dataset:
        shared, own = dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence[0]
        pick = lambda name: getattr(own, name)[0] if name in own else getattr(shared, name)[0]
        return (
            pick("PlanePositionSequence").ImagePositionPatient,
            pick("PlaneOrientationSequence").ImageOrientationPatient,
            pick("PixelMeasuresSequence").PixelSpacing,
        )
    return dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing


def series_of(site):
    """The slices of every series of a hospital: position, orientation, spacing, rows, columns."""
    series = defaultdict(dict)
    for dataset in datasets(site / "dicom"):
        position, orientation, spacing = (np.array(list(map(float, value))) for value in geometry(dataset))
        key = tuple(np.round(position, 2))
        series[dataset.SeriesInstanceUID][key] = (position, orientation, spacing, dataset.Rows, dataset.Columns)
    return {uid: list(slices.values()) for uid, slices in series.items()}


def difference(image, slices):
    """How far, in mm, either affine of a mask puts a corner of a slice from where its DICOM headers do; infinity if the mask is
    not on the series' grid."""
    assert image.header.get_xyzt_units()[0] == "mm"
    qform, qcode = image.get_qform(coded=True)
    sform, scode = image.get_sform(coded=True)
    assert qcode == 1 and scode == 1
    if image.shape[:3] != (slices[0][4], slices[0][3], len(slices)):
        return np.inf
    worst = 0.0
    for affine in (qform, sform):
        inverse = np.linalg.inv(affine)
        planes = set()
        for position, orientation, spacing, rows, columns in slices:
            along, down = orientation[:3] * spacing[1], orientation[3:] * spacing[0]
            plane = round((inverse @ np.append(position * [-1, -1, 1], 1))[2])
            planes.add(plane)
            for r, c in [(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)]:
                lps = position + c * along + r * down
                ras = (affine @ [c, r, plane, 1])[:3]
                worst = max(worst, np.abs(ras - lps * [-1, -1, 1]).max())
        if planes != set(range(len(slices))):
            return np.inf
    return worst


def check(site):
    """Every mask of a hospital's labels against the series that its row names."""
    series = series_of(site)
    rows = list(csv.DictReader((site / "labels/masks.csv").open()))
    masks = [(nibabel.load(site / "labels" / row["file"]), series[row["series"]]) for row in rows]
    return told(site.name, [difference(image, slices) for image, slices in masks])


def check_said(site, said):
    """Every mask of `predict` against the series that lies nearest to it: its file is called by a pseudonym."""
    series = series_of(site).values()
    masks = [nibabel.load(path) for path in sorted(said.rglob("*.nii.gz"))]
    return told(said.name, [min(difference(image, slices) for slices in series) for image in masks])


def told(name, differences):
    worst = max(differences, default=np.inf)
    print(f"{name}: {len(differences)} masks, largest difference {worst:.2e} mm")
    return worst <= BOUND_MM


if __name__ == "__main__":
    if len(sys.argv) < 2:
        numbers()
    elif len(sys.argv) > 2:
        sys.exit(0 if check_said(Path(sys.argv[1]), Path(sys.argv[2])) else 1)
    else:
        sites = [site for site in sorted(Path(sys.argv[1]).iterdir()) if (site / "labels").is_dir()]
        sys.exit(0 if sites and all([check(site) for site in sites]) else 1)

"""Patients by names and tables: what several scans of one person are called in the releases."""

import pytest

from uad.data.reading.patients import patient_of, patient_of_scan, read_patients, read_split
from uad.errors import InputError


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("BraTS20_Training_001_080", "BraTS20_Training_001"),
        ("BraTS2021_00495_080", "BraTS2021_00495"),
        ("Brats18_2013_10_1_080", "Brats18_2013_10_1"),
        ("BraTS-GLI-00013-000_080", "BraTS-GLI-00013"),
        ("BraTS-GLI-00013-001_080", "BraTS-GLI-00013"),
        ("BraTS-MEN-RT-0001-1_080", "BraTS-MEN-RT-0001"),
        ("sub-01_ses-02_T1w_080", "sub-01"),
        ("IXI002-Guys-0828-T2_080", "IXI002"),
        ("OAS1_0001_MR1_080", "OAS1_0001"),
        ("OAS30001_MR_d0129_080", "OAS30001"),
        ("UPENN-GBM-00001_11_080", "UPENN-GBM-00001"),
        ("TCGA_CS_4941_19960909_012", "TCGA_CS_4941"),
        ("UCSF-PDGM-0045_FU003d_080", "UCSF-PDGM-0045"),
        ("ADNI_002_S_0295_MR_MPRAGE_Br_2006_I13722_080", "002_S_0295"),
        ("training01_02_080", "training01"),
        ("P1_ses1_080", "P1"),
        ("case12_Visit-02_017", "case12"),
        ("Patient-001_week-044-1_080", "Patient-001"),
        ("patient-7-visit-2", "patient-7"),
        ("study_visit1_004", "study_visit1"),  # no patient has this name, however many visits there were
        ("NORMAL-4872585-1", "4872585"),
        ("NORMAL_1000", "NORMAL_1000"),  # an image number is no slice of a patient NORMAL
        ("T2_0012", "T2_0012"),  # nor one of a contrast or a fold
        ("fold1_T1w_0123", "fold1_T1w_0123"),
        ("site3_case7_012", "site3_case7"),
        ("P01_slice20", "P01"),
        ("P01_z-20", "P01"),
        ("P01_scan20", "P01_scan20"),
        ("T1001_012", "T1001"),
        ("scan", "scan"),
    ],
)
def test_the_patient_of_a_slice_is_told_by_its_name(name, patient):
    assert patient_of(name) == patient


def test_a_table_goes_before_the_names(tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("age,patient,name\n50,P1,scan_a1\n51,P1,scan_b2\n")
    patients = read_patients(table)
    assert {patient_of(name, patients) for name in ("scan_a1_080", "scan_b2_017", "scan_a1")} == {"P1"}
    assert patient_of("scan_c3_080", patients) == "scan_c3"


def test_a_table_without_header_and_with_tabs_is_read(tmp_path):
    table = tmp_path / "patients.tsv"
    table.write_text("scan_1\tP1\n\nscan_2\tP2\n")
    assert read_patients(table) == {"scan_1": "P1", "scan_2": "P2"}


def test_every_wrong_line_of_a_table_is_named(tmp_path):
    table = tmp_path / "split.csv"
    table.write_text("patient,part\nP1,train\nP2\nP1,val\n")
    with pytest.raises(InputError, match=r"(?s)line 3.*line 4.*P1 is val, and train further up"):
        read_split(table)
    table.write_text("patient,part\nP1,training\n")
    with pytest.raises(InputError, match="the part 'training'"):
        read_split(table)
    with pytest.raises(InputError, match="unreadable"):
        read_split(tmp_path / "none.csv")


def test_a_scan_of_no_known_release_is_its_own_patient():
    assert patient_of_scan("patient-7-second") == "patient-7-second"

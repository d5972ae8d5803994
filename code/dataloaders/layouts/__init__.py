"""One file a layout in which people have these data sets: its reader (a `Source`), the splits that it can make, how new files are read, and
the data sets that lie so (`DATA_SETS`), found by the catalog. Others are what several readers share (`common`, `images`, `listed`,
`volumes`, `nifti`, `volume_files`, `own`, `drawn`). May import: `description`, `errors`, `settings`, `geometry`, `intensities`, `splits`.
"""

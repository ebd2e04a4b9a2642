"""Optimum's exporter on a pipeline folder, without its validation."""

import sys

if __name__ == "__main__":
    from optimum.exporters.onnx import main_export

    main_export(sys.argv[1], output=sys.argv[2], task="text-to-image", do_validation=False, local_files_only=True, library_name="diffusers")

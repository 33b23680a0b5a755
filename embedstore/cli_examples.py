"""The examples at the end of each command's help."""

from __future__ import annotations

_EXAMPLES: dict[str, dict[str, str]] = {
    "": {
        "from a table of films to scores": """
            embedstore extract films.csv --store S.zarr --backbone biomedclip
            embedstore probe S.zarr --label density --head logistic""",
        "the same without data of one's own": """
            embedstore phantoms films
            embedstore extract films/manifest.csv --store S.zarr --backbone phantom-clip""",
    },
    "extract": {
        "a table, two backbones over one reading of each film": """
            embedstore extract films.csv --store S.zarr --backbone biomedclip \\
                --backbone convnext_tiny --column patient=MRN""",
        "a DICOM archive, its labels in a table": """
            embedstore extract ARCHIVE --store S.zarr --backbone biomedclip \\
                --join labels.csv --on PatientID --label density""",
        "on the nodes of a Ray cluster, into object storage": """
            embedstore extract films.csv --store s3://bucket/S.zarr \\
                --backbone biomedclip --ray head:6379""",
    },
    "probe": {
        "two heads on the same folds by patient": """
            embedstore probe S.zarr --label density --order A,B,C,D \\
                --head logistic --head knn""",
        "parameters chosen on the training side, the probe kept": """
            embedstore probe S.zarr --label density --head logistic --sweep --save P""",
        "a learning curve": """
            embedstore probe S.zarr --label density --head logistic --few-shot 1,2,4,8""",
    },
    "finetune": {
        "beside the frozen probe, on a split made before": """
            embedstore extract films.csv --store S.zarr --backbone convnext_tiny \\
                --keep-pixels
            embedstore finetune S.zarr --backbone convnext_tiny --label density \\
                --split split.json --out runs/tiny""",
    },
    "study": {
        "all that a file asks for; again, what is missing": """
            embedstore study study.toml""",
        "a store, without a file": """
            embedstore study S.zarr --label density --head logistic --head knn \\
                --out study""",
    },
    "audit": {
        "is the label read off the vendor, and does the split leak?": """
            embedstore audit S.zarr --label density --split split.json \\
                --shortcut vendor --html audit.html""",
    },
    "predict": {
        "new films, by exam, into a table": """
            embedstore predict P new.csv --by exam --out answers.csv""",
    },
    "retrieve-eval": {
        "precision, mAP and nDCG of the first 5 and 10": """
            embedstore retrieve-eval S.zarr --label density -k 5,10""",
        "do reports find their images?": """
            embedstore retrieve-eval S.zarr --text report""",
    },
    "split": {
        "each hospital tested once": """
            embedstore split S.zarr --label density --kind site --column hospital \\
                --out split.json""",
        "a holdout of a fifth of the patients": """
            embedstore split S.zarr --label density --kind holdout --out split.json""",
    },
    "index": {
        "for a store of hundreds of thousands": """
            embedstore index S.zarr --backbone biomedclip""",
        "for one that memory has no room for, and the same in a LanceDB database": """
            embedstore index S.zarr --backbone biomedclip --on-disk
            embedstore index S.zarr --backbone biomedclip --engine vectors.lance""",
    },
    "search": {
        "films of other patients like this one, as a page": """
            embedstore search S.zarr --id film0042 -k 10 --where "view == 'MLO'" \\
                --html like.html""",
        "by a description": """
            embedstore search S.zarr --text "an extremely dense breast" --per patient""",
    },
    "serve": {
        "a page for a browser on this machine": """
            embedstore serve S.zarr --probe P""",
    },
    "view": {
        "the films of a folder, as the model sees them": """
            embedstore view films --to sheet.png""",
    },
    "check": {
        "after a crash": """
            embedstore check S.zarr --repair""",
    },
    "export": {
        "a table for pandas or DuckDB": """
            embedstore export S.zarr --format parquet --out films.parquet""",
    },
    "update": {
        "corrected labels, by id": """
            embedstore update S.zarr corrected.csv --label density""",
    },
    "delete": {
        "a patient who withdrew, gone for good": """
            embedstore delete S.zarr --patient P017
            embedstore compact S.zarr""",
    },
    "compact": {
        "what was deleted or replaced": """
            embedstore compact S.zarr""",
    },
    "merge": {
        "two hospitals' stores in one": """
            embedstore merge A.zarr B.zarr --store C.zarr --different-patients""",
    },
    "copy": {
        "into object storage; again, what is missing there": """
            embedstore copy S.zarr s3://bucket/S.zarr""",
    },
    "info": {
        "for a script": """
            embedstore info S.zarr --json""",
    },
    "phantoms": {
        "240 films, small ones": """
            embedstore phantoms films --patients 60 --size 384""",
    },
    "backbones": {
        "carry a model to a machine without internet": """
            embedstore backbones bundle biomedclip --to bundle
            embedstore backbones verify bundle""",
    },
    "backbones list": {
        "for a script": """
            embedstore backbones list --json""",
    },
    "backbones show": {
        "dimension, licence and the hash of the weights": """
            embedstore backbones show phantom-clip""",
    },
    "backbones pull": {
        "the files alone": """
            embedstore backbones pull biomedclip --to biomedclip
            embedstore extract films.csv --backbone biomedclip@biomedclip""",
    },
    "backbones bundle": {
        "all that another machine needs": """
            embedstore backbones bundle biomedclip --to bundle""",
    },
    "backbones verify": {
        "on that machine": """
            embedstore backbones verify bundle
            embedstore extract films.csv --backbone bundle""",
    },
    "prompts": {
        "which wording is best, and it as a head": """
            embedstore prompts bench S.zarr --label density --set birads-density
            embedstore prompts use S.zarr --label density --set birads-density \\
                --best --save P""",
    },
    "prompts list": {
        "for a script": """
            embedstore prompts list --json""",
    },
    "prompts show": {
        "a start for a set of one's own": """
            embedstore prompts show birads-density""",
    },
    "prompts expand": {
        "every sentence, checked against what the model can read": """
            embedstore prompts expand birads-density --backbone biomedclip --csv""",
    },
    "prompts bench": {
        "with the effect of each word as a picture": """
            embedstore prompts bench S.zarr --label density --set birads-density \\
                --plot words.png""",
        "a set of one's own against a built-in one": """
            embedstore prompts bench S.zarr --label density --set birads-density \\
                --set mine.yaml""",
    },
    "prompts use": {
        "the winner as a probe for `predict`": """
            embedstore prompts use S.zarr --label density --set birads-density \\
                --best --save P""",
        "as sentences for `probe --prompts`": """
            embedstore prompts use S.zarr --label density --set birads-density \\
                --best --to sentences.txt""",
    },
}


def examples(command: str) -> str:
    """Return the examples of a command as the end of its help: code by Markdown's rules, too."""
    shown = []
    for purpose, lines in _EXAMPLES[command].items():
        code = "\n".join(line.removeprefix(" " * 8) for line in lines.strip("\n").splitlines())
        shown.append(f"    # {purpose}\n{code}")
    return "\n\n".join(["Examples:", *shown])

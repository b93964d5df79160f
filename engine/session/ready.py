"""Whether what a run reads is there, asked before there is a run.

A run of which nothing can come would leave a folder that holds its name and a failure to be read about. What is looked
for costs nothing to look for: files of this disk. Whether the model can be loaded, the hub has what is named and every
row can be read is told by the run itself.

The module is light.
"""

from ..config.run_config import RunConfig
from ..data.read.read import check_path
from ..model.chat_template import read_chat_template
from ..model.folder import check_tokenizer_folder, model_folder


def check_ready(config: RunConfig) -> None:
    """See that the model, the data and the chat template that a run names are on this disk, or may be on the hub.

    Raises:
        LoadError: a local path that is no model.
        DataError: a data file that is not there.
        ConfigError: a chat template that is neither a name, a file nor jinja.
    """
    if folder := model_folder(config.model.name_or_path):
        check_tokenizer_folder(folder, f"model.name_or_path: {config.model.name_or_path}")
    for source in config.data.sources:
        check_path(source.path, "data.path" if config.data.path is not None else "data.datasets")
    if config.data.eval_path:
        check_path(config.data.eval_path, "data.eval_path")
    if config.data.chat_template is not None:
        read_chat_template(config.data.chat_template)

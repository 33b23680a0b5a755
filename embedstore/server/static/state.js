// What the views share: what is served, what is chosen, and how one view calls another.

export const page = {
  info: null, // as api/store gives it
  backbone: "", // the key of the vectors chosen
  like: () => {},
  unlike: () => {},
  predict: () => {},
};

export const labels = () => page.info.columns.filter((column) => column.label).map((column) => column.name);

export const chosen = () => page.info.backbones.find((backbone) => backbone.key === page.backbone);

export const withText = () => chosen()?.text ?? false;

"""The words the tokenizer knows beyond those of the sentences: radiology and common English.

Their vectors are never trained; they are there so that a sentence around known words stays whole
rather than falling into single letters.
"""

__all__ = ["WORDS"]

_TEXT = """
a about above abnormal abnormality absence absent according acr across additional adenosis adjacent
adult after age aged all almost along also although always amorphous amount an analog analysis and
annual anterior any appear appearance appears apparent approximately architectural are area areas
around artifact as aspect assessment associated asymmetric asymmetries asymmetry at atypical average
axilla axillary away back background band bands be because been before behind being below benign
beside best better between bi bilateral biopsy birads black body border both bottom branching breast
breasts bright brighter but by calcification calcifications calcified can cancer cancerous carcinoma
case cases category caudal cc center central change changes characteristic characterized chest
circumscribed class classification clear clearly clinical close closed cluster clustered clusters
coarse coarser compared comparison complete completely complex component composed composition
compressed compression conspicuous consistent contain containing contains content contour contrast
cooper corner could course covered cranial craniocaudal cyst cystic cysts dark darker data deep
definite degree demonstrate demonstrated demonstrates dense denser densest densities density depth
describe described diagnosis diagnostic diffuse diffusely digital digitised digitized discrete
disease distal distinct distortion distribution does done down dr duct ductal ducts due during each
early edge either element elements elsewhere enhanced enlarged entire entirely equal especially
evaluation even evenly evidence evident exam examination example except exceptionally exposed
exposure extensive extent extreme extremely fade fair fairly false fat fatty features female few
fibroadenoma fibroglandular fibrosis fibrous field figure film films find finding findings fine
first five focal fold follow for form found four fourth frame frequent from front full fully further
general generally give given gland glands glandular good grade great greater grey group grouped half
hard hardly has have having healthy height hence her here heterogeneity heterogeneous high higher
highest highly history homogeneous homogeneously hospital however human identified if ill image
images imaging implant implants important in increase increased indistinct individual inferior inner
inside instead interpretation intermediate intermixed internal into invasive involving irregular is
island islands isolated it its just kind known label labelled labels large largely larger largest
last late lateral laterality lead least left length less lesion lesions letter letters level levels
ligament ligaments light like likely limit limited limits line linear lines little lobe lobular
lobulated location locations long low lower lowest lymph made magnification main mainly majority
male malignancy malignant mammary mammogram mammograms mammographic mammography many margin margins
marked markedly marker markers mask masked masks mass masses may mean mediolateral medial median
medical medium menopausal metastasis microcalcification microcalcifications middle might mild mildly
million minimal minimally minor mixed mixture mlo moderate moderately more morphology most mostly
much multiple muscle must narrow near nearly negative neither nevertheless new next nipple no node
nodes nodular nodule nodules none nonetheless nor normal normally not note noted nothing now number
obese oblique obscure obscured obscures obscuring observed obvious of off often old older on once
one only opacities opacity opaque open or orientation other others our out outer outline over
overall overlapping pale papilloma parenchyma parenchymal part partial partially partly parts patch
patches patchy pathology patient patients pattern patterns pectoral pectoralis per percent
percentage perhaps photo photograph picture place plain plate pleomorphic position positive possible
posterior postmenopausal predominance predominant predominantly predominate premenopausal present
previous prior probable probably problem projection prominent proportion quadrant quality quarter
quite radiograph radiographic radiological radiologist radiology radiolucent radiopaque range rare
rarely rate rather read reader reading reads recall reduce reduced reduces region regional regions
regular relatively remain replaced report reported residual result retraction retroareolar review
right rim roughly round rounded same scan scanned scanner scar scatter scattered screen screening
second see seen segment segmental sensitive sensitivity several severe shadow shape shaped she sheet
short should show showing shown shows side similar simple single site situated size skin slight
slightly small smaller smooth so soft solid some sometimes somewhat sparse specimen speckled
spiculated spot spread star stellate still strands stroma structure structures study subareolar
subcutaneous such suggest suggestive superior surgery surrounded surrounding suspicious symmetric
symmetrical symmetry synthetic tail taken tape technique than that the their them then there thereby
these they thick thicker thickening thickness thin thinner third this those though thread three
through throughout thus tiny tissue tissues to together tomosynthesis too top total trabecular
translucent transparent tumor tumour two type typical typically ultrasound unchanged under
underlying uneven unevenly uniform uniformly unilateral unlabelled unremarkable until up upper use
used using usual vague variable various vary vascular vein veins vertical very vessel vessels view
viewed views visible visibly visualised visualized wall was well were what when where whereas
whether which while white whole wide widespread will with within without woman women work would x
xray year years yellow yes yet you young younger your zone zero 10 20 25 30 40 50 60 70 75 80 90 100
"""
WORDS: tuple[str, ...] = tuple(_TEXT.split())

#!/bin/sh
# Every cell that experiments/cells keeps, made anew, and the pages' tables with them: a night on two cores. Finished cells stay in
# results/ and confirmed/, so that this may be stopped and called again.
#
#     EIGENSTEP_SHARED=../shared sh experiments/all.sh
set -e
cd "$(dirname "$0")/.."
cells() { python experiments/tournament.py --folder results/ --networks networks/ "$@"; }

python experiments/train.py --folder networks/ --bf16

# Exact mixtures, 2,000 noises.
cells mnist14 --items 400 --calls 3,4,5,6,7,8,9,10,11,12,16,20 --solvers ddim,heun,dpmpp_2m,dpmpp_3m,unipc3,ipndm4,deis3 --oracle
cells mnist28 cifar16 --items 400 --calls 4,6,10 --brief --oracle
cells mnist28 --items 400 --calls 8 --solvers ddim --brief --oracle
cells ecg --items 400 --calls 4,6,8,10 --brief --oracle
cells speech --items 400 --calls 4,8,10 --brief --oracle
cells mnist28 cifar16 ecg --items 400 --calls 3,5 --solvers ddim,dpmpp_2m --brief --oracle
cells mnist14 cifar16 --items 400 --calls 4,6,10 --solvers ddim_eta,dpmpp_2m_sde --brief

# Networks, 80 or 100 noises.
mnist="sdaloglu_mnist_lin100ep sdaloglu_mnist_lin sdaloglu_mnist_geo sdaloglu_mnist_cos"
squares="pulfer_mnist pulfer_fashion"
own="mnist_v edm_fashion v_fashion_classes eps_cifar ecg_eps speech_flow"
cells sdaloglu_mnist_lin100ep flow_latent --items 20 --calls 4,6 --oracle
cells $mnist $squares flow_latent --items 20 --calls 3,4,5,6 --solvers ddim,dpmpp_2m --brief --oracle
cells sdaloglu_mnist_lin sdaloglu_mnist_geo --items 20 --calls 4,6 --solvers unipc3,ipndm4 --brief --oracle
cells $mnist --items 20 --calls 7,8,10 --solvers ddim,dpmpp_2m --brief --oracle
cells $squares --items 20 --calls 8,10 --solvers ddim,dpmpp_2m --brief --oracle
cells flow_latent --items 20 --calls 8,10 --brief --oracle
cells flow_latent --items 20 --calls 7,9 --solvers ddim --brief --oracle
cells flow_latent --items 100 --calls 4,6 --solvers ddim_eta,dpmpp_2m_sde --brief
cells $own --items 16 --calls 3,4,5,6 --solvers ddim --brief --oracle
cells $own --items 16 --calls 4,6 --solvers dpmpp_2m --brief --oracle
cells mnist_v --items 16 --calls 8,10 --solvers ddim,dpmpp_2m --brief --oracle

# The same networks from 2,000 fresh noises, and everything that is told of them.
confirm() { python experiments/confirm.py --folder results/ --networks networks/ --to confirmed/ "$@"; }
confirm $mnist $squares flow_latent mnist_v eps_cifar speech_flow
confirm sdaloglu_mnist_lin100ep sdaloglu_mnist_lin --calls 7,8,10
confirm sdaloglu_mnist_geo sdaloglu_mnist_cos $squares --calls 8,10
cells --summary --figures figures/ --condense experiments/cells
python experiments/tournament.py --summary --folder confirmed/ --condense experiments/cells/confirmed
python experiments/pages.py

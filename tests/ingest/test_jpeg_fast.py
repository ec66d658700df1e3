"""JPEGs by encoders that use libjpeg's fast transform, as ImageMagick does: they come back to the last byte."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import scipy
from PIL import Image

from dedupfs.ingest import jobs, jpeg, jpeg_fast
from dedupfs.ingest.decode import decode
from dedupfs.ingest.jobs import Fit
from dedupfs.ingest.jpeg_coding import JpegCoding, coding_of, encode
from dedupfs.ingest.jpeg_rounding import Rounding
from dedupfs.model import Policy
from tests.ingest.drawing import encoded, photo

TABLE = (16,) * 64


def drawn() -> Image.Image:
    """Return the picture that the copies below were made of; sides that fill no whole unit of 4:2:0."""
    rows, columns = np.mgrid[0:74, 0:100]
    red = 120 + 80 * np.sin(columns / 9.0) * np.cos(rows / 11.0)
    green = 255 - np.hypot(columns - 60, rows - 30) * 3 % 200
    blue = (columns // 7 * 37 + rows // 9 * 53) % 256
    return Image.fromarray(np.stack((red, green, blue), axis=2).astype(np.uint8))


# convert -quality 80 -strip, and with -resize 50% -quality 85, of ImageMagick 6.9.11 with libjpeg-turbo 2.1.5.
COARSE = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV00smF1_cBL1_cHO2L=cV5DE$j2?`Vr4-"
    "60&6c`v66c!d59VH(c8zUSR79cDjBPJ&)Dk&KsEif%8FeNA{DF534LjeZ|2MP!Z6AB6wC>j<TC@3f>C@3f>C@3f>C@3f>C@3f>C@3f>C@3f>C@"
    "3f>C@3f>C@3f>C@3f>C@3f>C@BBH01*fPN&sX70U`hb5di}c0sq7R8vp<T0|5a60000000000000C900RaG0s;TT05cE(0RsaA0R{yE2LS*800"
    "00100IL95g`Q<F+md)B2jUX1~P%6u_R$5GeUBb!O>Fx!~huq0RaF50RR9100000000001_c8I2Lk`Z05K5&0Rsa91O)>E2LJ#70000100IO91r"
    "Z@J5)&dp1{6_Ykurgy6~QAyQgN}-@c-"
    "HX3<CiG0ucid06zf3(7E!=WSQ=Kk9Oxd#^uDEl6sY;q5|O{pbZ7M3qwZc++ZWLpu0LA;Vopg({2+O+70~_G2ZIRa?*GlBO;7C_#Vj=2yST_qnB"
    "Aipg2n#4Z+7$RW&{a6F6x>A1LR^4LlMusqJf=&@F&%(O8{wZJs-"
    "8)Eq#ZY4<;}173@&)Hq9{gY^>Q`p@M)qlUy`c&4T5Majt}IH!a(j1OhXxn{Lj)CY5)lB`0n$-"
    "pW_9}C3MjQS(m)`BoSm2w8$;3SslZphcVxB8PyaI<xhVaWwtICeU%jYLg5usxPjU5)LW206_eZ(wcIrhaT%V+k+n8(@2=vNIvr3mK`xd+fOK{3"
    "x3~n|q6&l6st|f=WJWyX%91@=wXi^x6&p1Ox%CaKdX!_U;K_U=A55x@&J4DdbyWC+QoiljfRajI9k3X?F?j3~hHslx*e*+U8i2ZIts$)FnUC&t"
    "v}pRykKVR?6Ip<EwoJcT$;A@-+$6&3sa|u^phc{9mb8MN8V9?-"
    "z08uXMw_koSNH7Q%H)O5KB%&n}Yc&XV%i6G)tZPJ`{RTi#FxXBwblqiAUGqI(9kj3z>zp`)G@ng)S;mAeKRC+QuLi-"
    "m4MN}d`W!dt3J=wS|s*q2-KjnyC6LirhzJpERBrmgiOW5YlO_*Aa4sY0UYqo%8dK_46T*sTbYocDv-"
    "R%)kq?;qG8>LN7<biOBX<cx+eZ_2%t?JYc`k)JlR1v=FWo9J9f{HCxN+PdK)?oIyy%8BQ8ZMvwC(};KnNLKuyT;Rvz8T&78J%nzP=G)VRD{JB|"
    "9vAx$`mTKJo)<>OxD#$i?w-2qZ)|FYg+a%I!~OB6<v_VcsORc5MZ;6xSk`RYV|(7~N29a%`z+R<1B1FPMwZgvp>vrmt#GT(kT{*TcK-kvSYuM<"
    "XcoImVA?!OK}^xGc)rUsr#y!86S{eh!H~VjwP*P|DvquLF_hGSx8~@Cu9LHg?!ESl*#$1G6APF_?$cvn5Ve|=a>Vuk`?wG;0^W}{-"
    "A#`Ts5pT4-(TGjy3l=7vRA0r_lVsd&AYnZ=}TGSIr}1HjF)m1ZHe2D2-`%9jX_pdQ-"
    "+?JZ`&TFNudzacS^RMoagL~iGyj+*#{FyzCyjOA*UfDgKW+^6Pr``2CD6X+^Ck%smBbijlsl^B^56>Zl(M>j{(C%GIt3`s7T0Mo|-"
    "o}j3)H7?k*T#bqyk?M%AUFs$=fQcph6}BQJ*zaD8!+$V_PCHyA$3Bv_1g9Nds`{{U>Vd3MQQsNF$U(n8>PPANAw_(H<M4+oDWVVSXf?hU^eHb^"
    "5vrT}xv1KmWM8<m^{?v{53qgkrO5!m<H!;xaMG3pTje~QoY2pXEr^-nE3fwo3^FL!$4-"
    "4(T>kmnKx4!U5T#Cim6^@(|FmYww`NnYlgwaz4atD0QmFpyHzIDyJ_O!7#<<#Xyb;ODxb2PEg^Y}02uL`P=gcwS6S1mP7JB=A*pxJC(i4IXC+O"
    "c-ott|SbtpVKtX5N_Pv*g(|R$4++0{imB+>gtNPhVSCD{DR5rwL#N@#|I6zxHsxm`BEDOA3iY-c5#EQ=i3Ei4K$s?bXQkacC}A@X6-"
    "hy`Y4chhkoiIRc-!d?ym51;z`EYI<3~vEf@uMKaPGLI>wyJ$~HOG^rOPYG!rWc7jK=$NcxLhu6ac9aJ#;l%U3P<?lwj7uA<nO)-"
    ";wlhKmcB+DY{!ll4fvIZ4kZJDs4^eC()rN^74?#c;@I$o~LITOKl$>$3j<E9?H1+Nu3Bf4F`MM((R8h-"
    "QWd+W3B;4;Fp%x7*cLxKadhs{3pl^;gr+fs{8x>aK%;q`|k0eO<j5KbQv^dqqA5R*s5njI6~M0cfa>T9DDV59;*nsM}gH6Ue0(<uBKz9n^n!`Y"
    "Y{m{S=>1%0nsV(Ma(G!522}9Pzg~&e<ewjdt}*sL^Yg$LN+;ONV75s+$EmtKrEVPY(537JGQW>ii?uATm&0sZo4UIj3(N1FP_%FaOy"
)
SMALLER = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV00jdC1Ox*G1Ox;H1qB8N3<w7Y2L}%e3keJn4-yg)4-pX)791B76dDx~5f~vD8XX-UA0HDJA|xUnBpe<e"
    "9{<|_LjeT^1qTKP4hRSi9uyH29v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v=U|01*fPB>*x50U`hb5di}c"
    "0sq7R82|tS0RaI30000000000000062L%HJ|HJ?;5C8%J0|EsC0|@{C00000009C600a>Q5(XhLK~WSU2NQu7GE!4vak0Vh|HJ?p0RRI50RaF2"
    "000000000000adF0|x^C!~iQ1009C80t5vG00000000000Rj;K0|W&jF+m0rQDGu+fswHj6cr;f|Jncy0|5X65d#qbKLAwWblL{y1e463^y6=A"
    "CO`ocnWiy`zyW%ScH#Tj1j`hl?(4~OTTxgfThJ;hR1lYEB!K-"
    "Oo3{{|pwg#U>bh~aRhf{uCm0o_p=m`Ju>fS}rElrFf2ww1OGHjo9^XpcO)NzjAs3JpBYCfxeyb8tKUB8~^U#+Xg20G`ogmtYsaElgC9;Tdk=Bz"
    "qs@LU0(-qtS#s}+7+V$F7td{vJD-5pD{nGPW%XFBL+1J5rif1D1iyF-"
    "|gq2NgMnYAvAoSIs%1f%RfFbb`+4QE8XOIjAVsZPLDwH%;{IsHhRRr0DtwSd}?+=B6LMIW;ZdJ@uuKas&d($5Z30`!PU|G6nr7vkZY>?c^ZF3Z"
    "nO%#PBMi?r<;Db%tbZKm%i7E$k%Brg8)o}_?iOC5{c2DwisRhIL=^IyA%$1s?<Q&CEhbE0-QMb36_up#PpCUk$Cg3mzd(_kI7o&k185Nsw7$-"
    "h_SF29F^;smhxaN{vQ}|ivkxGE2v#G`aBMd`lSevg<x**9h+WF?XxDreYFy)?==(F02GQF#_!hs8tK+jW4oI|RM8)ERfvjdE0KgAPfvdcmhRaR"
    "Ytl31v-b;&WEs?@toz_!G0HltvyRi!{d!5QgAOQhCJk~5Y$VoAjn;a8gANJNA-*gAW~xV*~T#aH5<fo*E`oI?YYn(9Fe@rC5%DIxRN;9&W{`p-"
    "4%*I1s@Z%_{G{d!SFH<-"
    "0Z;l!C`ij~NB@Sb2sdwRjvHL87u24Qvt4?~Y=U$=P#qu<(|IA%#OJ>Dpyh_X;q{W0PBh)N(n{Q1W2wSMv1y|&!%PraU>>{QoZcggp8?L`!dVnt"
    "2*VkYDu@~5zOY<D~6E$>K5Xu}O*doTFtqKfJ0pr_>?ADHK{|Je"
)


@pytest.mark.parametrize("member", [COARSE, SMALLER], ids=["coarse", "smaller"])
def test_what_imagemagick_made_comes_back_bit_for_bit(member: bytes) -> None:
    base = encoded(drawn(), "PNG")
    found = jobs.fit(member, base, Policy.VERIFIED)
    assert isinstance(found, Fit), found
    assert found.bit_exact
    assert jobs.render(base, found.recipe, found.own, len(member)) == member


@pytest.mark.parametrize("step", [5, 16, 40])
def test_pixels_are_coded_as_the_levels_say(step: int) -> None:
    luma = np.asarray(photo(3, (160, 120)).convert("L")).copy()
    luma[40:60, 40:90] = 255
    pixels, levels = jpeg_fast.coded(luma, (step,) * 64)
    with Image.open(io.BytesIO(encoded(Image.fromarray(pixels), qtables=[[step] * 64]))) as image:
        shown = np.asarray(image).astype(int)
    blocks = shown.reshape(15, 8, 20, 8).transpose(0, 2, 1, 3) - 128
    again = np.round(scipy.fft.dctn(blocks.astype(float), axes=(2, 3), norm="ortho") / step)
    # A reader's range of levels takes something from blocks with white in them; the others say what was coded.
    seen = (blocks > -128).all(axis=(2, 3)) & (blocks < 127).all(axis=(2, 3))
    assert seen.mean() > 0.5
    assert (again == levels)[seen].all()


@pytest.mark.parametrize("size_px", [(64, 48), (57, 48), (64, 41), (50, 39), (71, 33)])
@pytest.mark.parametrize("progressive", [False, True])
def test_any_size_is_kept(size_px: tuple[int, int], progressive: bool) -> None:
    image = photo(5, size_px)
    for subsampling in (0, 1, 2):
        coding = JpegCoding((TABLE,), subsampling, progressive, True, False, 0, rounding=Rounding.FAST)
        assert JpegCoding.from_bytes(coding.to_bytes()) == coding
        whole = jpeg.SOI + encode(image, coding)
        frame = jpeg.read_frame(whole)
        assert (frame.width_px, frame.height_px) == size_px
        difference = np.abs(np.asarray(decode(whole).image).astype(int) - np.asarray(image))
        assert difference.mean() < 12
        assert coding_of(jpeg.split(whole)).subsampling == subsampling


@pytest.mark.parametrize("step", [3, 8, 17])
def test_a_flat_block_has_the_mean_that_is_wanted(step: int) -> None:
    levels = np.arange(-900 // step, 900 // step, dtype=np.int32)
    means = (jpeg_fast.flat(levels, step).astype(np.float32) - 128).mean(axis=(1, 2)) * 8
    assert np.abs(means - levels * step).max() < 0.45 * step

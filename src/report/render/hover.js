(()=>{"use strict";
const tip=document.createElement("div");
tip.className="tip";tip.hidden=true;document.body.append(tip);
for(const svg of document.querySelectorAll("figure svg")){
const spots=[...svg.querySelectorAll(".spots circle")].map(c=>{
const title=c.querySelector("title"),text=title.textContent;title.remove();return{c,text};});
let shown=null;
const hide=()=>{tip.hidden=true;if(shown)shown.c.classList.remove("near");shown=null;};
const show=e=>{
const m=svg.getScreenCTM();let best=null,least=30*30;
for(const s of spots){
const x=m.a*s.c.cx.baseVal.value+m.e-e.clientX,y=m.d*s.c.cy.baseVal.value+m.f-e.clientY;
if(x*x+y*y<least){least=x*x+y*y;best=s;}}
if(best!==shown){hide();shown=best;if(best)best.c.classList.add("near");}
if(!best)return;
tip.textContent=best.text;tip.hidden=false;
const left=Math.min(e.clientX+12,document.documentElement.clientWidth-tip.offsetWidth-4);
tip.style.left=Math.max(4,left)+"px";
tip.style.top=Math.max(4,e.clientY-tip.offsetHeight-12)+"px";};
svg.addEventListener("pointermove",show);
svg.addEventListener("pointerdown",show);
svg.addEventListener("pointerleave",hide);}
addEventListener("scroll",()=>{tip.hidden=true;},{passive:true});
})();
